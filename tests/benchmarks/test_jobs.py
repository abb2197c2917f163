"""The jobs that people run: which there are, what becomes of one, and their table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

import domino_compile
from benchmarks import page, targets_table
from benchmarks.baseline import ROOT
from benchmarks.grid_cells import rounds_of
from benchmarks.job_cells import JobCell, dry_jobs, jobs
from benchmarks.job_worker import JobBench, _judged, _planned, row_of
from benchmarks.jobs_table import FILE, NAME, TITLES, cells_of, line, markdown, rendered, section
from benchmarks.lane import BASELINE
from benchmarks.lane_worker import _fake_world, workload
from domino_compile.links import load_link
from domino_compile.report.times import GraphTimes, StepTimes
from domino_compile.tools.bench.result import VariantResult
from domino_compile.tools.bench.run import Plan
from domino_compile.tools.bench.variants import parse_variants

#: What the issue tracker promises of each row.
PROMISED = {
    *("job", "style", "batch", "seq", "tp", "ac", "granularity", "dtype", "link", "inductor_ms"),
    *("domino_ms", "free_ms", "speedup", "of_free", "wire_ms", "exposed_ms", "peak_ratio"),
    *("grad_error_ratio", "predicted_ms", "split"),
}
#: Memory of the GPU that jobs are measured on, and processes that compile on it side by side.
GPU_GIB, WORKERS = 139, 12


def test_every_job_can_be_built_and_scales_its_link() -> None:
    found = jobs()
    assert [cell.number for cell in found] == list(range(len(found)))
    assert len({str(cell).partition(" ")[2] for cell in found}) == len(found)
    for cell in found:
        work = workload(cell)
        assert work.ac == cell.ac and work.granularity == cell.granularity
        assert load_link(cell.link).scaled_to(cell.tp).ranks == cell.tp
        assert 2 <= cell.layers <= 4 and 0 < cell.to_reach < 1
    float8 = {(cell.model, cell.batch, cell.ac) for cell in found if cell.is_float8}
    assert float8 == {
        (f"llama3-{size}", batch, ac)
        for size in ("8b", "70b", "405b")
        for batch in (1, 2)
        for ac in ("none", "full")
    }
    names = {cell.job for cell in found}
    assert names >= {"titan-8b", "titan-70b", "titan-405b", "bridge-70b", "sft-70b", "hf-8b"}
    assert names >= {"prefill-32b", "prefill-70b", "paper"}


def test_few_rounds_hold_all_jobs() -> None:
    """Of what fits into the memory of one GPU, so that all take nine minutes."""
    for float8, count in ((False, 3), (True, 3)):
        cells = [cell for cell in jobs() if cell.is_float8 == float8]
        rounds = rounds_of(cells, WORKERS, 0.85 * GPU_GIB)
        assert len(rounds) == count and sum(map(len, rounds)) == len(cells)


@pytest.fixture(scope="module")
def dry_row() -> Iterator[dict[str, Any]]:
    cell = dry_jobs()[-1]
    if dist.is_initialized():
        dist.destroy_process_group()
    domino_compile.reset_reports()
    with _fake_world(cell) as world:
        plan = Plan(parse_variants("domino,free"), link=cell.link, kernels=False, float64=True)
        bench = JobBench(workload(cell), plan, world, lambda *_: None)
        result = bench.prepare()
        reports = domino_compile.reports()
        bench.settle(1)
        bench.measure(result, bench.runners)
        yield row_of(cell, result, reports)
    dist.destroy_process_group()


def test_a_job_is_measured_and_judged(dry_row: dict[str, Any]) -> None:
    assert dry_row.keys() >= PROMISED
    json.dumps(dry_row)
    assert dry_row["inductor_ms"] > 0 and dry_row["free_ms"] > 0 and dry_row["of_free"] > 0
    assert dry_row["link"] == "demo-2" and dry_row["predicted_ms"] > 0
    assert dry_row["grad_error_ratio"] <= 1.1 and dry_row["grad_passes"] is True


def candidate(name: str, split: str) -> Any:
    return SimpleNamespace(name=name, split=split, chosen=True)


def report(predicted_us: float, split: str = "rows") -> Any:
    return SimpleNamespace(
        collectives=[1],
        candidates=[candidate(f"{split} 1+1", split)],
        times=GraphTimes(StepTimes(2 * predicted_us, 2.0), StepTimes(predicted_us, 1.0)),
        status="sliced",
        reason="",
    )


@pytest.mark.parametrize(
    ("changes", "graphs", "predicted_ms"),
    [
        ({"granularity": "whole"}, [9000], 9),
        ({"granularity": "block"}, [2000, 500], 8.5),
        ({"granularity": "block", "style": "megatron"}, [2000], 8),
        ({"granularity": "block", "style": "megatron"}, [1000, 2000], 7),
    ],
)
def test_the_plan_of_a_block_counts_for_each_block(
    changes: dict[str, str], graphs: list[int], predicted_ms: float
) -> None:
    made = {"style": "sp", **changes}
    cell = JobCell(0, "llama3-8b", 4, 1, 64, 8, "demo-2", training=True, **made)
    found = _planned(cell, [report(us) for us in graphs])
    assert found["predicted_ms"] == pytest.approx(predicted_ms)
    assert found["split"] == "rows 1+1" and found["status"] == "sliced"


@pytest.mark.parametrize(("style", "judged"), [("sp", False), ("megatron", True)])
def test_one_process_cannot_judge_tokens_that_change_ranks(style: str, judged: bool) -> None:
    ours = VariantResult("domino")
    ours.judge(0.01, 70.0, "blocks.0.q.weight")
    cell = JobCell(0, "llama3-8b", 4, 1, 64, 8, "demo-2", style, True)
    result = SimpleNamespace(emulated=True, variants=[ours])
    found = _judged(cell, result, [report(1.0, "tokens")])  # type: ignore[arg-type]
    assert (found["grad_error_ratio"] == 70.0) is judged
    assert (found["grad_passes"] is False) is judged and bool(found["grad_note"]) is not judged


# -- the table -------------------------------------------------------------------------------------


def test_the_table_shows_what_fails(dry_row: dict[str, Any]) -> None:
    wrong = dry_row | {"grad_passes": False, "grad_error_ratio": 3.0}
    failed = {**dry_row, "error": "no room", "number": 7}
    text = markdown([dry_row, wrong, failed])
    assert text.splitlines()[0].count("|") == len(TITLES) + 1
    assert "3.000 **fails**" in text and text.endswith(": FAILED: no room")
    cells = dict(zip(TITLES, cells_of(dry_row), strict=True))
    assert cells["job"] == "dry (tiny-llama, forward)" and "(0.88)" in cells["of free (goal)"]
    assert cells["peak"] == "" and "speed-up" in line(dry_row)


def test_another_checkout_is_shown_but_not_published(dry_row: dict[str, Any]) -> None:
    other = dry_row | {"number": BASELINE + dry_row["number"]}
    assert "baseline" in markdown([dry_row, other]) and "baseline" not in section([dry_row, other])


def test_the_page_is_written_between_its_lines(dry_row: dict[str, Any]) -> None:
    begin, end = page.marks(NAME)
    done = rendered(f"before\n{begin}\nold\n{end}\nafter\n", [dry_row])
    assert "old" not in done and done.startswith("before\n") and done.endswith("\nafter\n")
    assert rendered(done, [dry_row]) == done and "torch" in done
    with pytest.raises(ValueError, match="lacks <!-- benchmarks"):
        rendered("nothing", [])


def test_benchmarks_md_shows_the_published_results() -> None:
    text = page.PAGE.read_text()
    how = "python -m benchmarks.jobs --render (or .targets)"
    assert text == rendered(text, page.read(FILE)) == targets_table.rendered(text), how
    first, second = (text.index(page.marks(name)[0]) for name in (NAME, targets_table.NAME))
    assert first < second, "the jobs stand first"


# -- another checkout ------------------------------------------------------------------------------

USE = """
import sys
from pathlib import Path
import domino_compile
from benchmarks import baseline
baseline.use(Path(sys.argv[1]))
import domino_compile
from domino_compile import errors
from domino_compile._compat import groups
from domino_compile.tools.bench import shapes
print(errors.__file__); print(shapes.__file__); print(domino_compile.MARK)
"""


def test_another_package_is_measured_with_this_bench(tmp_path: Path) -> None:
    package = tmp_path / "domino_compile"
    (package / "tools").mkdir(parents=True)
    (package / "__init__.py").write_text("MARK = 'the other'\n")
    (package / "tools/__init__.py").touch()
    (package / "_compat").mkdir()
    (package / "_compat/__init__.py").touch()
    (package / "errors.py").write_text((ROOT / "domino_compile/errors.py").read_text())
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    errors, shapes, mark = done.stdout.splitlines()
    assert errors == str(package / "errors.py") and mark == "the other"
    assert shapes == str(ROOT / "domino_compile/tools/bench/shapes.py")


def test_a_folder_without_a_package_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.jobs", "--dry-run", "--baseline-path", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 1 and "no domino_compile there" in done.stderr
