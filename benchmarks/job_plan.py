"""Plan the jobs of ``benchmarks.jobs`` or ``benchmarks.rivals`` without a GPU.

Usage: ``python -m benchmarks.job_plan [--only 0,4] [--real RANKS] [--link NAME|FILE]``. Each job is
captured with fake tensors as one of its ranks, and planned for an H200, with nothing compiled. This
prints the chosen plan, and the predicted times of Inductor and of the plan. ``--real`` plans the
jobs of ``benchmarks.rivals``.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any
from unittest import mock

from benchmarks.job_cells import JobCell

DEVICE, REAL_LINK = "H200", "h200-nvlink-2"


def plan(cell: JobCell, link: str, **options: Any) -> Any:
    """Return the report of a job's plan, a ``CompileReport``.

    Args:
        cell: the job.
        link: the link table to plan with.
        **options: other options of the backend.
    """
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    import torch
    import torch.distributed as dist
    from torch import fx
    from torch._subclasses.fake_tensor import FakeTensorMode

    import domino_compile
    from benchmarks.lane_worker import workload
    from benchmarks.plan_only import PlannedOnly, planned_only, planning_backend
    from domino_compile import _compat
    from domino_compile.options import Options
    from domino_compile.pipeline.contract import Lowering
    from domino_compile.tools.bench.styles import Parallel
    from domino_compile.tools.bench.workload import Step

    def first(run: Any, graph: fx.Graph) -> None:
        run(graph)
        raise PlannedOnly  # the first graph holds forward and backward

    torch._dynamo.reset()
    domino_compile.reset_reports()
    chosen = Options(device=DEVICE, link=link, **options)
    backend = planning_backend(chosen, first, Lowering(fuses=True, products=True))
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
