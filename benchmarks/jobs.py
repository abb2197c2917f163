"""Measure common tensor-parallel jobs on one GPU, acting as one rank of an *emulated* link.

Usage: ``python -m benchmarks.jobs`` on a machine with a GPU: about nine minutes on an H200 with 16
cores. ``--float8`` measures those in float8 instead, which need torchao. ``--list`` shows the jobs
and their estimated needs, ``--only 0,4`` selects some,
``--resume`` those that are missing or failed. ``--baseline-path DIR`` also measures the package in
another checkout. ``--dry-run`` runs small models on the CPU. ``--render`` writes the table in
BENCHMARKS.md from the published results.

Jobs compile side by side and measure one at a time (``side_by_side``): each compiles three programs
(Inductor, domino, and Inductor with collectives that take no time), runs them in turn in a new
random order each round, traces the kernels of a step, and judges every gradient by float64
(``domino_compile.tools.bench.reference``). Results are written as they arrive.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.job_cells import JobCell, dry_jobs, jobs
from benchmarks.jobs_table import FILE, line, markdown, publish
from benchmarks.side_by_side import ROOT, add_common, complete, parse_common, run, select

VARIANTS = "inductor,domino,free"
#: For the largest jobs the float64 reference takes seconds, and so do their steps.
MEASURE_LIMIT_S, MEASURING_S = 90.0, 7.0
#: The time limit for compiling a job; its process is then ended.
TIMEOUT_S = 200.0
#: When to stop starting rounds, out of the nine minutes for everything.
SECONDS = 530.0


def work(*args: Any, **kwargs: Any) -> None:
    """Call ``job_worker.work``, for a process that has not loaded torch."""
    from benchmarks import job_worker

    job_worker.work(*args, **kwargs)


def main() -> int:
    """Measure; return 1 if a job failed or was left out."""
    asked = parse()
    if asked.render:
        publish()
        return 0
    chosen, kept = select(asked, dry_jobs() if asked.device == "cpu" else table(asked))
    if asked.list:
        show([cell for cell in chosen if isinstance(cell, JobCell)])
        return 0
    keep_compiled(asked)
    rows = run(
        asked,
        chosen,
        kept,
        partial(work, variants=asked.variants, rounds=asked.rounds),
        line,
        judged=True,
        measure_limit_s=MEASURE_LIMIT_S,
        measuring_s=MEASURING_S,
    )
    print(markdown(rows))
    return 0 if complete(rows, chosen) else 1


def table(asked: argparse.Namespace) -> list[JobCell]:
    """Return the jobs to choose from."""
    if asked.only is not None:
        return jobs()
    return [cell for cell in jobs() if cell.is_float8 == asked.float8]


def keep_compiled(asked: argparse.Namespace) -> None:
    """Let Inductor cache what it compiles during this run.

    Communication-free Inductor is Inductor's own program recorded with a link that takes no time,
    so that program is compiled only once.
    """
    cache = asked.logs.resolve() / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "0"
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    os.environ["TRITON_CACHE_DIR"] = str(cache / "triton")


def show(cells: Sequence[JobCell]) -> None:
    """Print the jobs and their estimated needs."""
    for cell in cells:
        print(
            f"{cell}  ~{cell.process_gib:.1f} GiB, float64 ~{cell.judge_gib:.1f} GiB and "
            f"{cell.judge_s:.1f} s, a step computes ~{cell.step_ms:.0f} ms"
        )
    print(f"total: {sum(cell.process_gib for cell in cells):.0f} GiB")


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    add_common(parser)
    parser.set_defaults(seconds=SECONDS, timeout=TIMEOUT_S, logs=ROOT / "out/jobs")
    parser.add_argument("--variants", default=VARIANTS, help="as of domino bench")
    parser.add_argument("--rounds", type=int, default=20, help="at most")
    parser.add_argument("--float8", action="store_true", help="the float8 jobs (needs torchao)")
    parser.add_argument("--dry-run", action="store_true", help="small models on the CPU")
    parser.add_argument("--render", action="store_true", help="write BENCHMARKS.md's table")
    if "--dry-run" in sys.argv:
        parser.set_defaults(device="cpu")
    return parse_common(parser, FILE)


if __name__ == "__main__":
    sys.exit(main())
