"""Ranks that leave no result, and what earlier ranks left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from domino_compile.host.launch import RanksError
from domino_compile.tools.profiling import ranks
from domino_compile.tools.profiling.script import Outcome, Request


def ranks_that_write(monkeypatch: pytest.MonkeyPatch, folder: Path, *numbers: int) -> None:
    def run_ranks(*_: object) -> str:
        for number in numbers:
            (folder / f"rank_{number}.json").write_text(json.dumps(Outcome().as_dict()))
        return ""

    monkeypatch.setattr(ranks, "run_ranks", run_ranks)


@pytest.mark.parametrize(("wrote", "missing"), [((), 0), ((0, 2), 1)])
def test_the_first_rank_without_a_result_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrote: tuple[int, ...], missing: int
) -> None:
    ranks_that_write(monkeypatch, tmp_path, *wrote)
    with pytest.raises(RanksError) as caught:
        ranks.run_on_ranks(Request(Path("train.py"), folder=tmp_path), 3, lambda *_: None)
    assert f"train.py ended the process of rank {missing} " in str(caught.value)
    assert str(tmp_path / f"rank_{missing}.log") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_earlier_ranks_go_and_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks_that_write(monkeypatch, tmp_path, 0, 1)
    for name in ("rank_7.json", "rank_7.log", "rank_table.txt"):
        (tmp_path / name).write_text("")
    found = ranks.run_on_ranks(Request(Path("train.py"), folder=tmp_path), 2, lambda *_: None)
    assert len(found) == 2
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"rank_0.json", "rank_1.json", "rank_table.txt", "request.json"}
