"""The processes of a job of ``benchmarks.rivals``: one for each rank, on real links.

The first rank's process talks to the process that started it, as in ``lane_worker``. It forks the
others before it touches a GPU, and all run the same code. If any of them ends, the job has failed;
if the first is killed, the others end too.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.forked import fork, watch
from benchmarks.job_cells import JobCell
from benchmarks.job_worker import JobBench, measured
from benchmarks.lane import Settings, last_line
from benchmarks.lane_worker import live
from domino_compile.host.launch import end_at_once
from domino_compile.tools.bench.variants import Variant, parse_variants
from domino_compile.tools.bench.world import Place

#: The variants whose gradients are judged, and whose kernels are traced.
JUDGED, TRACED = ("inductor", "domino"), ("inductor", "domino", "free")


class RivalsBench(JobBench):
    """A job's bench in which a rival may fail, and which traces and judges few variants."""

    #: Real ranks differ more from round to round than one GPU does.
    timed_s, fewest, most = 7.0, 8, 20
    #: How long after its start a job still begins to compile a rival.
    compile_s = 150.0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._began = time.monotonic()

    def left_out(self, variant: Variant) -> str:
        """Return why a variant is not compiled, equal on all ranks; empty if it is."""
        if variant.name in JUDGED:
            return ""
        (took_s,) = self.world.agreed([time.monotonic() - self._began])
        late = took_s > self.compile_s
        return f"left out: {took_s:.0f} s had passed before it was compiled" if late else ""

    def must_work(self, variant: str) -> bool:
        """Return whether there is no result without a variant."""
        return variant in JUDGED

    def is_traced(self, variant: Variant) -> bool:
        """Return whether kernel traces account for a variant's time."""
        return variant.name in TRACED

    def is_judged(self, variant: Variant) -> bool:
        """Return whether a variant's gradients are compared with float64."""
        return variant.name in JUDGED


class Follower:
    """The pipe of a rank that only follows the first: nobody listens, and nobody answers."""

    def send(self, message: tuple[str, Any]) -> None:
        """Write the message to this rank's log, and end this process if it says that it failed."""
        print(message, flush=True)
        if message[0] == "failed":
            end_at_once(1)

    def recv(self) -> None:
        """Wait to be ended."""
        while True:
            time.sleep(60)


def work(
    cell: JobCell, settings: Settings, gpus: str, pipe: Connection, variants: str, rounds: int
) -> None:
    """Run the whole life of a job's processes, which end in this function.

    Args:
        cell: the job.
        settings: the settings of all jobs.
        gpus: the GPUs to use, as in ``CUDA_VISIBLE_DEVICES``; empty on the CPU.
        pipe: the pipe to the process that started this one.
        variants: the variants, as in ``domino bench``.
        rounds: the most rounds to measure.
    """
    store = settings.logs / f"{cell.number}.store"
    store.unlink(missing_ok=True)
    rank, others = fork(cell.tp)
    os.environ["LOCAL_RANK"] = str(rank)
    for number, child in enumerate(others, start=1):
        watch(child, partial(_report_end, number, settings.log_of(cell, number), pipe))
    live(
        cell,
        settings,
        gpus,
        pipe if rank == 0 else Follower(),  # type: ignore[arg-type]
        possible(parse_variants(variants), cell, settings.device),
        partial(measured, cell, settings, rounds),
        RivalsBench,
        Place(settings.device, None, rank=rank, rendezvous=f"file://{store}"),
    )


def _report_end(rank: int, log: Path, pipe: Connection) -> None:
    """Report that another rank's process has ended, and end this one."""
    with contextlib.suppress(OSError):
        pipe.send(("failed", f"rank {rank} ended: {last_line(log)}"))
    end_at_once(1)


def possible(variants: Sequence[Variant], cell: JobCell, device: str) -> list[Variant]:
    """Return the variants that this torch has, and that make a difference to a job.

    Asynchronous TP changes all-gathers and reduce-scatters alone, and needs GPUs. Collectives that
    take no time need GPUs too.
    """
    left_out = set()
    if device == "cpu" or not cell.divides_tokens:
        left_out.add("inductor-async-tp")
    if device == "cpu":
        left_out.add("free")
    return [v for v in variants if v.name not in left_out and not v.missing()]
