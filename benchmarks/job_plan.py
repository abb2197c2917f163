"""Plan the jobs of ``benchmarks.jobs`` or ``benchmarks.rivals`` without a GPU.

Usage: ``python -m benchmarks.job_plan [--only 0,4] [--real RANKS] [--link NAME|FILE]``. Each job is
captured with fake tensors as one of its ranks, and planned for an H200, with nothing compiled. This
prints the chosen plan, and the predicted times of Inductor and of the plan. ``--real`` plans the
jobs of ``benchmarks.rivals``.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks.job_cells import JobCell, jobs, real_jobs
from benchmarks.side_by_side import numbers

if TYPE_CHECKING:
    from torch import fx

#: The device to plan for, and the link table of jobs on real links.
DEVICE, REAL_LINK = "H200", "h200-nvlink-2"


class NothingToPlan(Exception):
    """Raised once a graph turns out to have no collectives."""


def joint_only(run: Any, graph: fx.Graph) -> None:
    """Plan and rewrite one joint graph with collectives, and end."""
    import domino_compile
    from benchmarks.plan_only import PlannedOnly

    run(graph)
    if any(report.collectives for report in domino_compile.reports()):
        raise PlannedOnly  # this graph holds forward and backward
    raise NothingToPlan


def plan(cell: JobCell, link: str, around: Any = joint_only, **options: Any) -> Any:
    """Return the report of a job's plan, a ``CompileReport``.

    Args:
        cell: the job.
        link: the link table to plan with.
        around: calls each stage of the passes, a ``benchmarks.plan_only.Around``.
        **options: other options of the backend.
    """
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    import torch
    import torch.distributed as dist
    from torch._subclasses.fake_tensor import FakeTensorMode

    import domino_compile
    from benchmarks.lane_worker import workload
    from benchmarks.plan_only import planned_only, planning_backend
    from domino_compile import _compat
    from domino_compile.options import Options
    from domino_compile.pipeline.contract import Lowering
    from domino_compile.tools.bench.styles import Parallel
    from domino_compile.tools.bench.workload import Step

    torch._dynamo.reset()
    domino_compile.reset_reports()
    chosen = Options(device=DEVICE, link=link, **options)
    plans = planning_backend(chosen, around, Lowering(fuses=True, products=True))

    def backend(gm: fx.GraphModule, inputs: list[Any]) -> Any:
        try:
            return plans(gm, inputs)
        except NothingToPlan:  # what comes before the blocks: compiled code cannot run on fakes
            return gm

    _compat.start_fake_group(cell.tp)
    try:
        assert dist.group.WORLD is not None
        work = workload(cell)
        # A device mesh looks at the numbers in a tensor, which fake tensors lack.
        parallel = Parallel.of(work.parallel_style, dist.group.WORLD, "cpu")
        fake, known = FakeTensorMode(allow_non_fake_inputs=True), mock.Mock(return_value=parallel)
        with mock.patch.object(Parallel, "of", known), fake, planned_only():
            Step(work, dist.group.WORLD, "cpu", partial(torch.compile, backend=backend))()
    finally:
        dist.destroy_process_group()
    return next(report for report in domino_compile.reports() if report.collectives)


def lines(cell: JobCell, report: Any) -> list[str]:
    """Return a job's plan and the candidates it was chosen from, with predicted milliseconds."""
    found = [f"{cell}: {report.status}" + (f", {report.reason}" if report.reason else "")]
    for one in report.candidates:
        why = "chosen" if one.chosen else one.reason
        times = f"{one.predicted_us / 1e3:.2f} ms, {one.exposed_us / 1e3:.2f} exposed"
        found.append(f"  {one.name}: {times}; {why}")
    return found


def main() -> int:
    """Plan the jobs and print the plans."""
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("--only", type=numbers, metavar="N,M-K", help="these jobs")
    parser.add_argument("--real", type=int, metavar="RANKS", help="the jobs of benchmarks.rivals")
    parser.add_argument("--link", help=f"default: the job's; with --real {REAL_LINK}")
    asked = parser.parse_args()
    for cell in real_jobs(asked.real) if asked.real else jobs():
        if asked.only is None or cell.number in asked.only:
            report = plan(cell, asked.link or cell.link or REAL_LINK)
            print("\n".join(lines(cell, report)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
