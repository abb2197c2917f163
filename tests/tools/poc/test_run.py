"""The folder of a proof of concept: what is removed from it before the first run."""

from __future__ import annotations

from pathlib import Path

import pytest

from domino_compile.tools.poc import run
from domino_compile.tools.scripts import ScriptError

OURS = (
    "runs/0.inductor/rank_0.json",
    "runs/12.domino/rank_3.log",
    "runs/12.domino/request.json",
    "timelines/domino.rank_0.json",
    "dumps/graph_0/plan.json",
    "dumps/rank_1/graph_2/joint/01.normalise.before.py",
    "dumps/rank_1/graph_2/forward/09.schedule.txt",
)
USERS = (
    "runs/Nov28/events.out.tfevents",
    "runs/0.domino/model.pt",
    "runs/rank_0.json",
    "dumps/core.123",
    "dumps/graph_0/forward/notes.txt",
    "timelines/mine.json",
)


def test_a_run_that_fails_leaves_the_users_files_and_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ScriptError("no")

    for name in (*OURS, *USERS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "result.json").write_text('{"schema_version": 1, "kind": "poc"}')
    monkeypatch.setattr(run, "run_on_ranks", fails)
    with pytest.raises(ScriptError):
        run.run(run.Plan(Path("train.py"), (), 2, out=tmp_path), lambda *_: None)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(USERS)
    assert not (tmp_path / "runs" / "12.domino").exists()
