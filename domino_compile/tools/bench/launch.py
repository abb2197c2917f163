"""Starts the gloo ranks of a benchmark on this machine, listens to them and ends them all."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import tempfile
import threading
import time
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from domino_compile.errors import DominoError, first_line
from domino_compile.host.launch import RanksError
from domino_compile.tools.bench.result import BenchResult
from domino_compile.tools.bench.run import Plan, Progress, run
from domino_compile.tools.bench.workload import Workload
from domino_compile.tools.bench.world import Place

#: A failing rank makes the others fail too. This is how long to wait for earlier failures.
SETTLE_S = 2.0


def run_on_gloo_ranks(
    workload: Workload, plan: Plan, place: Place, command: str, progress: Progress
) -> BenchResult:
    """Call ``run`` in ``workload.tp`` processes on this machine.

    Raises:
        RanksError: A rank failed; contains its message.
    """
    progress(f"starting {workload.tp} ranks", 0.0)
    context = multiprocessing.get_context("spawn")
    events: Any = context.Queue()
    with tempfile.TemporaryDirectory(prefix="domino_bench_") as folder:
        place = replace(place, rendezvous=f"file://{folder}/rendezvous")
        processes: list[SpawnProcess] = []
        try:
            for rank in range(workload.tp):
                arguments = (rank, workload, plan, place, command, events)
                process = context.Process(target=_rank, args=arguments, daemon=True)
                process.start()
                processes.append(process)
            return _listen(processes, events, progress)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _listen(processes: list[SpawnProcess], events: Any, progress: Progress) -> BenchResult:
    while True:
        try:
            kind, rank, content = events.get(timeout=0.5)
        except queue.Empty:
            for rank, process in enumerate(processes):
                if process.exitcode:
                    raise RanksError(f"rank {rank} ended with status {process.exitcode}") from None
            continue
        if kind == "progress":
            progress(*content)
        elif kind == "failed":
            raise RanksError(_first_failure(events, rank, content))
        else:
            assert isinstance(content, BenchResult)
            return content


def _first_failure(events: Any, rank: int, content: tuple[float, str]) -> str:
    """Return the first failure and its rank, because the other failures are consequences."""
    failures = [(*content, rank)]
    until = time.monotonic() + SETTLE_S
    while (left := until - time.monotonic()) > 0:
        with contextlib.suppress(queue.Empty):
            kind, rank, content = events.get(timeout=left)
            if kind == "failed":
                failures.append((*content, rank))
    _, text, rank = min(failures)
    return f"rank {rank}: {text}"


def _rank(
    rank: int, workload: Workload, plan: Plan, place: Place, command: str, events: Any
) -> None:
    """Run one rank, and send its progress and its result or error to the parent."""
    _end_with_parent()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workload.tp))

    def progress(text: str, share: float) -> None:
        if rank == 0:
            events.put(("progress", rank, (text, share)))

    try:
        result = run(workload, plan, replace(place, rank=rank), command, progress)
    except Exception as error:
        text = first_line(error)
        if not isinstance(error, DominoError):
            text = f"{type(error).__name__}: {text}"
        events.put(("failed", rank, (time.monotonic(), text)))
        return
    if rank == 0:
        events.put(("result", rank, result))


def _end_with_parent() -> None:
    """End this process when its parent process ends for any reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
