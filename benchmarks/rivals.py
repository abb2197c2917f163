"""Measure common tensor-parallel jobs on real links, beside Inductor's own ways to overlap.

Usage: ``python -m benchmarks.rivals`` on a machine with several GPUs (the tensor-parallel group has
as many ranks), or as a step of ``python -m benchmarks.multi_gpu``. ``--list`` shows the jobs,
``--only 0,2`` selects some, ``--resume`` those that are missing or failed. ``--planned-link`` names
the link table to plan with. ``--device cpu`` runs small models on gloo ranks, without generated
kernels. ``--render`` writes the table in BENCHMARKS.md from the published results.

Each job is one process for each rank. All jobs compile side by side, and measure one at a time with
the GPUs to themselves (``side_by_side``). A job runs its variants in one process group, in turn and
in a new random order each round:

==========================  ================================================================
``inductor``                Inductor
``inductor-overlap``        Inductor with its overlap scheduling
``inductor-simple-overlap`` the same with its newer pass, where this torch has it
``inductor-async-tp``       the same with asynchronous TP over symmetric memory, for jobs with
                            all-gathers and reduce-scatters
``domino``                  this package
``domino-measured``         this package with ``guard="measure"``, after it has decided
``domino-wire``             this package with ``transport="symmetric"``
``free``                    Inductor with collectives that take no time
==========================  ================================================================

Writes ``nccl-jobs-<ranks>.json``: the fields of ``jobs.json`` with ``emulated: false``, the rivals'
times, the transport of the collectives and the thread blocks that it holds. The peaks count what
torch's allocator gives out; symmetric memory is not among it.

Inductor records CUDA graphs of forward and of backward. ``free``, and ``inductor-async-tp`` if that
fails, are recorded as one graph of the whole step, which is to their advantage. ``notes`` in a row
says so, or why there is no graph.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.job_cells import JobCell, dry_real_jobs, real_jobs
from benchmarks.jobs import keep_compiled, show
from benchmarks.rivals_table import file_of, line, markdown, publish
from benchmarks.side_by_side import ROOT, add_common, complete, run, select, with_out

#: The most important first: when time runs out, the others are left out.
VARIANTS = (
    "inductor,domino,domino-wire,inductor-overlap,free,inductor-async-tp,domino-measured,"
    "inductor-simple-overlap"
)
#: The time limits of a job for compiling and measuring, and its usual time for measuring.
TIMEOUT_S, MEASURE_LIMIT_S, MEASURING_S = 260.0, 60.0, 20.0
#: When to stop starting jobs.
SECONDS = 400.0


def work(*args: Any, **kwargs: Any) -> None:
    """Call ``rivals_worker.work``, for a process that has not loaded torch."""
    from benchmarks import rivals_worker

    rivals_worker.work(*args, **kwargs)


def main() -> int:
    """Measure; return 1 if a job failed or was left out."""
    asked = parse()
    if asked.render:
        publish()
        return 0
    on_cpu = asked.device == "cpu"
    table = dry_real_jobs(asked.ranks) if on_cpu else real_jobs(asked.ranks)
    if asked.layers is not None:
        table = [replace(cell, layers=asked.layers) for cell in table]
    chosen, kept = select(asked, table)
    if asked.list:
        show([cell for cell in chosen if isinstance(cell, JobCell)])
        return 0
    keep_kernels(asked)
    rows = run(
        asked,
        chosen,
        kept,
        partial(work, variants=asked.variants, rounds=asked.rounds),
        line,
        ranks=asked.ranks,
        judged=True,
        measure_limit_s=MEASURE_LIMIT_S,
        measuring_s=MEASURING_S,
        planned_link=asked.planned_link,
    )
    print(markdown(rows))
    return 0 if complete(rows, chosen) else 1


def keep_kernels(asked: argparse.Namespace) -> None:
    """Let Inductor cache kernels during this run, but not graphs.

    The graph for ``cuda:1`` has another cache key than the one for ``cuda:0``. If one rank found
    its graph while another compiled, their exchanges while compiling would not match.
    """
    keep_compiled(asked)
    os.environ["TORCHINDUCTOR_FX_GRAPH_CACHE"] = "0"
    os.environ["TORCHINDUCTOR_AUTOGRAD_CACHE"] = "0"


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    add_common(parser)
    parser.set_defaults(seconds=SECONDS, timeout=TIMEOUT_S, logs=ROOT / "out/rivals")
    parser.add_argument("--ranks", type=int, default=2, help="real ranks, with a GPU each")
    parser.add_argument("--variants", default=VARIANTS, help="as of domino bench")
    parser.add_argument("--rounds", type=int, default=20, help="at most")
    parser.add_argument("--layers", type=int, help="of each model; default: the jobs' own")
    parser.add_argument("--planned-link", default="", help="default: the device's own")
    parser.add_argument("--render", action="store_true", help="write BENCHMARKS.md's table")
    asked = parser.parse_args()
    if asked.ranks < 2:
        parser.error(f"--ranks {asked.ranks}: a single rank does not communicate")
    return with_out(asked, file_of(asked.ranks))


if __name__ == "__main__":
    sys.exit(main())
