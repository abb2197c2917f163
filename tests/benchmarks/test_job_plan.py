"""Jobs are planned without a GPU, also where each block is a program."""

import pytest

from benchmarks.job_cells import JobCell, dry_jobs
from benchmarks.job_plan import lines, plan

#: One whose blocks are compiled alone, and a forward pass.
JOBS = [job for job in dry_jobs() if job.style in ("dtensor", "megatron")]


@pytest.mark.parametrize("cell", JOBS, ids=str)
def test_a_job_is_planned_with_its_collectives(cell: JobCell) -> None:
    report = plan(cell, "demo-2")
    assert report.collectives and report.candidates
    first, *rest = lines(cell, report)
    assert str(cell) in first and any("chosen" in line for line in rest)
