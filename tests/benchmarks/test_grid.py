"""The grid: its table, its rounds, what becomes of processes that fail, and its summary."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from benchmarks.grid_cells import (
    BATCHES,
    COUNT,
    LINKS,
    MODELS,
    MOST_GIB,
    SEQS,
    TOKENS,
    TPS,
    Cell,
    cells,
    dry_cells,
    rounds_of,
)
from benchmarks.grid_replan import device_of, replan
from benchmarks.grid_summary import SLOWER, line, summary
from benchmarks.lane import Lane, Queue, Row, Settings
from benchmarks.side_by_side import ROOT, Results
from domino_compile.links import load_link

# -- the table and its rounds ----------------------------------------------------------------------


def test_the_table_is_well_spread() -> None:
    table = cells()
    assert len(table) == COUNT >= 64
    assert [cell.number for cell in table] == list(range(COUNT))
    axes = {"model": MODELS, "batch": BATCHES, "seq": SEQS, "tp": TPS, "link": LINKS}
    for axis, values in axes.items():
        counts = Counter(getattr(cell, axis) for cell in table)
        assert set(counts) == set(values)
        assert max(counts.values()) <= min(counts.values()) + 4, (axis, counts)
        for other, others in axes.items():  # each value occurs with several of every other axis
            for value in values if other != axis else ():
                beside = {getattr(c, other) for c in table if getattr(c, axis) == value}
                assert len(beside) >= min(3, len(others)), (axis, value, other)
    assert {cell.style for cell in table} == {"megatron", "dtensor"}
    assert 0 < sum(not cell.training for cell in table) < COUNT / 4


def test_every_configuration_can_be_built_and_fits() -> None:
    for cell in cells():
        cell.shape.divided_by(cell.tp)
        assert TOKENS[0] <= cell.batch * cell.seq <= TOKENS[1]
        assert cell.live_gib <= MOST_GIB
        assert load_link(cell.link).scaled_to(cell.tp).ranks == cell.tp
    assert len({tuple(asdict(cell).values())[1:] for cell in cells()}) == COUNT


@pytest.mark.parametrize(("workers", "room"), [(12, 66.0), (5, 66.0), (12, 20.0), (1, 1.0)])
def test_rounds_hold_everything_once_and_fit(workers: int, room: float) -> None:
    rounds = rounds_of(cells(), workers, room)
    assert sorted(cell.number for cells_ in rounds for cell in cells_) == list(range(COUNT))
    for round_ in rounds:
        assert len(round_) <= workers
        assert len(round_) == 1 or sum(cell.process_gib for cell in round_) <= room
    sizes = [len(round_) for round_ in rounds]
    assert max(sizes) - min(sizes) <= 1


def test_no_rounds_of_nothing() -> None:
    assert rounds_of([], 4, 10.0) == []


# -- processes -------------------------------------------------------------------------------------


def stand_in(cell: Cell, settings: Settings, gpu: str, pipe: Connection) -> None:
    """Does what ``cell.model`` says, in place of compiling and measuring."""
    settings.log_of(cell).write_text(f"working on {cell.number}\n\n")
    if cell.model == "crashes":
        os._exit(7)
    if cell.model == "hangs":
        time.sleep(60)
    if cell.model == "fails" or (cell.model == "full" and len(os.listdir(settings.logs)) > 1):
        text = "OutOfMemoryError: CUDA out of memory" if cell.model == "full" else "ValueError: no"
        pipe.send(("failed", text))
        return
    pipe.send(("compiled", 0.1))
    assert pipe.recv() == "measure"
    if cell.model == "crashes later":
        os._exit(8)
    began = time.monotonic()
    time.sleep(0.05)
    pipe.send(("measured", {**asdict(cell), "times": (began, time.monotonic())}))
    pipe.recv()


def fork(target: Callable[..., None], arguments: tuple[Any, ...]) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(
        target=target, args=arguments, daemon=True
    )
    process.start()
    return process


def ran(folder: Path, rounds: Sequence[Sequence[str]], seconds: float = 60.0) -> dict[str, Row]:
    """The rows, by what the stand-in was told to do."""
    cells_ = iter(range(100))
    queued = [
        [Cell(next(cells_), do, 1, 1, 1, 2, "demo-2", "megatron", True) for do in round_]
        for round_ in rounds
    ]
    found: list[Row] = []
    others = set(multiprocessing.active_children())  # ranks of other tests on this worker
    queue = Queue(queued, found.extend, time.monotonic() + seconds)
    Lane("", fork, stand_in, Settings("cpu", folder, limit_s=3.0), queue).run()
    assert set(multiprocessing.active_children()) <= others
    return {row["model"]: row for row in found}


def test_what_fails_costs_itself_only(tmp_path: Path) -> None:
    first = ["works", "crashes", "hangs", "fails", "crashes later", "works too"]
    rows = ran(tmp_path, [first, ["works still"]])
    assert not any("error" in rows[name] for name in ("works", "works too", "works still"))
    assert rows["crashes"]["error"] == "its process ended with code 7: working on 1"
    assert rows["hangs"]["error"] == "compiling took more than 3 s: working on 2"
    assert rows["fails"]["error"] == "ValueError: no"
    assert rows["crashes later"]["error"].startswith("its process ended with code 8")


def test_one_measures_at_a_time(tmp_path: Path) -> None:
    rows = ran(tmp_path, [["a", "b", "c"]])
    times = sorted(row["times"] for row in rows.values())
    assert all(end <= begin for (_, end), (begin, _) in pairwise(times))


def test_no_room_is_tried_again_with_fewer(tmp_path: Path) -> None:
    queued = [Cell(n, do, 1, 1, 1, 2, "demo-2", "megatron", True) for n, do in enumerate("ab")]
    full = Cell(2, "full", 1, 1, 1, 2, "demo-2", "megatron", True)
    found: list[Row] = []

    def done(rows: Sequence[Row]) -> None:
        found.extend(rows)
        for path in tmp_path.iterdir():
            path.unlink()

    (tmp_path / "other").touch()
    queue = Queue([[*queued, full]], done, time.monotonic() + 60)
    Lane("", fork, stand_in, Settings("cpu", tmp_path, limit_s=5.0), queue).run()
    of_full = [row for row in found if row["model"] == "full"]
    assert ["error" in row for row in of_full] == [True, False]


def test_no_round_is_started_that_would_end_too_late(tmp_path: Path) -> None:
    assert ran(tmp_path, [["a"]], seconds=-1.0) == {}


def test_a_process_that_cannot_be_started_is_an_error_of_its_round(tmp_path: Path) -> None:
    def start(*_: object) -> BaseProcess:
        raise OSError("no more processes")

    found: list[Row] = []
    cell = Cell(0, "a", 1, 1, 1, 2, "demo-2", "megatron", True)
    queue = Queue([[cell]], found.extend, time.monotonic() + 60)
    Lane("", start, stand_in, Settings("cpu", tmp_path), queue).run()
    assert "no more processes" in found[0]["error"]


# -- results ---------------------------------------------------------------------------------------


def row(number: int, inductor_ms: float, domino_ms: float, split: str, **more: object) -> Row:
    return {
        **asdict(cells()[number]),
        "emulated": True,
        "inductor_ms": inductor_ms,
        "domino_ms": domino_ms,
        "ratio": domino_ms / inductor_ms,
        "choice": split,
        "split": split,
        "predicted_ms": 8.0,
        "predicted_inductor_ms": 9.0,
        "device": "a GPU",
        **more,
    }


def test_summary() -> None:
    failed = {**asdict(cells()[3]), "emulated": True, "error": "ValueError: no"}
    rows = [
        row(0, 10.0, 8.0, "rows"),
        row(1, 10.0, 10.5, "columns"),
        row(2, 10.0, 10.0, "inductor", predicted_ms=None, predicted_inductor_ms=None),
        failed,
    ]
    text = "\n".join(summary(rows))
    assert "4 configurations on emulated links, 1 failed" in text
    assert "2, reordered 0, alone 1" in text
    assert "1.050: #1 " in text and "0.800: #0 " in text
    assert "above 1.02" in text and "slower: #1" in text
    assert f"{(10 / 8 * 10 / 10.5) ** (1 / 3):.3f}" in text
    assert "2 of 2 within 10%" in text and "median 11.9% off (-11.9%)" in text
    assert "failed: #3" in text and "ValueError: no" in text
    assert "FAILED" in line(failed) and line(rows[0]).endswith("emulated")


def test_summary_of_failures_only() -> None:
    failed = {**asdict(cells()[3]), "emulated": True, "error": "ValueError: no"}
    assert len(summary([failed])) == 2
    assert summary([]) == ["0 configurations on emulated links, 0 failed"]


def test_results_are_whole_after_every_row(tmp_path: Path) -> None:
    path = tmp_path / "new" / "grid.json"
    results = Results(
        path, [{**row(5, 1.0, 1.0, "rows"), "kept": True}], {"command": "it"}, 2, line
    )
    results([row(1, 10.0, 8.0, "rows")])
    results([])
    found = json.loads(path.read_text())
    assert [entry["number"] for entry in found] == [1, 5]
    assert found[0]["command"] == "it" and found[1]["kept"]


def test_dry_cells_are_small() -> None:
    assert len(dry_cells()) == 4
    assert {(c.model, c.style) for c in dry_cells()} == {
        (model, style) for model in ("tiny-gpt", "tiny-llama") for style in ("megatron", "dtensor")
    }


# -- predictions of today --------------------------------------------------------------------------


def test_what_was_measured_is_predicted_anew() -> None:
    cell = replace(cells()[24], model="tiny-llama", batch=4, seq=64, tp=2)
    found = replan(cell, "uncut, reordered", "H100")
    assert 0 < found["predicted_ms"] <= found["predicted_inductor_ms"]
    assert found["choice_now"]
    assert replan(cell, "rows 1+1+1+1+1", "H100")["predicted_ms"] is None


def test_results_are_planned_anew_for_the_device_they_are_of() -> None:
    assert device_of({"device": "NVIDIA H100 80GB HBM3"}) == "H100"
    with pytest.raises(SystemExit, match="no rates for 'Other GPU': name a --device out of H200"):
        device_of({"device": "Other GPU"})


def test_the_published_grid_is_whole_and_keeps_its_promises() -> None:
    rows = json.loads((ROOT / "benchmarks/results/grid.json").read_text())
    assert [row["number"] for row in rows] == list(range(COUNT))
    assert not any(row.get("error") for row in rows)
    assert not [row for row in rows if row["ratio"] > SLOWER], "the default is slower"
    off = [abs(row["predicted_ms"] / row["domino_ms"] - 1) for row in rows]
    assert median(off) < 0.05 and max(off) < 0.15
