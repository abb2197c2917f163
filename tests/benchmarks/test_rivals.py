"""Jobs on real links beside Inductor's own ways to overlap: the jobs, their ranks, their table."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import page
from benchmarks.grid_cells import rounds_of
from benchmarks.job_cells import JobCell, dry_real_jobs, real_jobs
from benchmarks.job_worker import _judged, _rivals, _wire
from benchmarks.lane import failure
from benchmarks.lane_worker import workload
from benchmarks.rivals import VARIANTS
from benchmarks.rivals_table import NOTHING, TITLES, best_ms, cells_of, line, markdown, rendered
from benchmarks.rivals_worker import possible
from benchmarks.side_by_side import Gpu, together
from domino_compile import _compat
from domino_compile.tools.bench.result import VariantResult
from domino_compile.tools.bench.variants import parse_variants

GPU_GIB = 139


def test_six_jobs_compile_side_by_side_on_two_gpus() -> None:
    jobs = real_jobs(2)
    assert len(rounds_of(jobs, 6, 0.85 * GPU_GIB)) == 1
    for cell in [*jobs, *dry_real_jobs(2)]:
        assert workload(cell).tp == 2 and not cell.link
    assert {(c.style, c.batch, c.ac, c.granularity) for c in jobs} == {
        ("sp", 4, "none", "whole"), ("sp", 4, "none", "block"), ("sp", 1, "none", "whole"),
        ("sp", 1, "full", "whole"), ("dtensor", 4, "none", "whole"),
        ("dtensor", 1, "none", "whole"),
    }  # fmt: skip


def test_a_rival_that_makes_no_difference_is_left_out() -> None:
    cells = real_jobs(2)

    def names(cell: JobCell, device: str = "cuda") -> set[str]:
        return {variant.name for variant in possible(parse_variants(VARIANTS), cell, device)}

    everywhere = {"inductor", "inductor-overlap", "domino", "domino-measured", "domino-wire"}
    if _compat.inductor_has_option("aten_distributed_optimizations.enable_simple_overlap"):
        everywhere |= {"inductor-simple-overlap"}
    assert names(cells[0]) == everywhere | {"inductor-async-tp", "free"}
    assert names(cells[4]) == everywhere | {"free"}
    assert names(cells[0], "cpu") == everywhere


def test_gpus_are_taken_together() -> None:
    gpus = [Gpu("0", 139.0), Gpu("1", 80.0), Gpu("2", 139.0)]
    assert together(gpus, 2) == [Gpu("0,1", 80.0)]
    assert together(gpus, 1) == gpus
    with pytest.raises(SystemExit, match="4 ranks need as many GPUs; here are 3"):
        together(gpus, 4)


FORKS = """
import os, sys, time
from benchmarks import forked
forked.SETTLE_S = 0.0
rank, others = forked.fork(3)
if rank == 2 and sys.argv[1] == "fails":
    os._exit(3)
if rank == 0:
    print(*others, flush=True)
    if sys.argv[1] == "ends":
        os._exit(0)
for number, process in enumerate(others, start=1):
    forked.watch(process, lambda number=number: (print("ended:", number, flush=True), os._exit(0)))
time.sleep(30)
"""


@pytest.mark.parametrize("how", ["fails", "ends"])
def test_ranks_end_together(how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS, how],
        check=True, capture_output=True, text=True, cwd=page.ROOT, timeout=120,
    )  # fmt: skip
    first, *more = done.stdout.splitlines()  # returns when all ranks have closed their output
    assert len(first.split()) == 2
    assert more == (["ended: 2"] if how == "fails" else [])


# -- rows ------------------------------------------------------------------------------------------


def variant(name: str, ms: float | None, **others: Any) -> VariantResult:
    return VariantResult(name, step_ms=ms, **others)


@pytest.fixture
def row() -> dict[str, Any]:
    cell = real_jobs(2)[0]
    return asdict(cell) | {
        "emulated": False, "inductor_ms": 42.4, "overlap_ms": 42.9, "async_tp_ms": 42.0,
        "domino_ms": 40.0, "measured_ms": 40.1, "speedup": 1.06, "of_free": 0.9,
        "wire_ms": 8.0, "exposed_ms": 1.3, "peak_ratio": 1.0, "grad_error_ratio": 1.02,
        "grad_passes": True, "predicted_ms": 39.0, "split": "rows 2+2", "device": "NVIDIA H200",
        "compute_ms": {"domino": 36.0, "free": 33.0}, "torch": "2.11.0", "transport": "nccl",
    }  # fmt: skip


def test_the_table_compares_with_the_best_rival(row: dict[str, Any]) -> None:
    assert best_ms(row) == 42.0
    cells = dict(zip(TITLES, cells_of(row), strict=True))
    assert cells["of the best"] == "1.050" and cells["speed-up (goal)"] == "1.060 (1.08)"
    assert cells["compute"] == "1.09" and cells["exposed of wire, ms"] == "1.30 of 8.00"
    text = markdown([row, failure(real_jobs(2)[1], "hung")])
    assert "its simple overlap ms" not in text and text.endswith(": FAILED: hung")
    assert "asynchronous TP ms 42.00" in line(row)
    assert "async failed: no peers" in line(row | {"failed": {"async": "no peers"}})
    assert NOTHING in markdown([])


def test_rows_name_rivals_and_wire() -> None:
    found = [variant("inductor", 2.0), variant("inductor-async-tp", None, error="E: no peers")]
    named = _rivals({v.variant: v for v in [*found, variant("domino-measured", 1.0)]})
    assert named == {
        "async_tp_ms": None, "measured_ms": 1.0, "failed": {"inductor-async-tp": "E: no peers"},
    }  # fmt: skip
    result: Any = SimpleNamespace(emulated=False, link="NCCL", wire_ctas=24)
    assert _wire(result) == {"transport": "nccl", "ctas": 24}
    assert failure(real_jobs(2)[0], "")["emulated"] is False


def test_real_ranks_can_judge_tokens_that_change_ranks() -> None:
    ours = variant("domino", 1.0)
    ours.judge(0.01, 1.05, "w")
    result: Any = SimpleNamespace(emulated=False, variants=[ours])
    chosen = SimpleNamespace(split="tokens", chosen=True)
    report: Any = SimpleNamespace(candidates=[chosen])
    assert _judged(real_jobs(2)[2], result, [report])["grad_error_ratio"] == 1.05


def test_benchmarks_md_shows_the_published_results() -> None:
    text = page.PAGE.read_text()
    assert text == rendered(text), "python -m benchmarks.rivals --render"
