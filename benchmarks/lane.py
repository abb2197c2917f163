"""The rounds of one GPU in ``side_by_side``: all compile at once, then measure in turn.

::

    compile   one process for each configuration of the round; none measures meanwhile
    measure   one at a time, once all have compiled, failed or been ended; the others idle
    end       all processes are ended, which frees their memory

If a process crashes, hangs or runs out of memory, only its configuration is lost and recorded with
its error; the others continue.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks.grid_cells import Cell

#: The time limit for measuring a configuration, after which its process is ended, and the estimate.
MEASURE_LIMIT_S, MEASURE_S = 30.0, 2.5
#: Configurations measured with another checkout's package have numbers from here on.
BASELINE = 1000
#: How long to wait for a process that has been ended.
END_S = 10.0
#: How torch's and the driver's errors say that there is not enough memory.
NO_ROOM = ("OutOfMemoryError", "out of memory")

Row = dict[str, Any]
#: A function that makes a process from a function and its arguments.
Start = Callable[[Callable[..., None], tuple[Any, ...]], BaseProcess]


@dataclass(frozen=True)
class Settings:
    """The settings that all configurations share.

    Attributes:
        device: ``cuda`` or ``cpu``.
        logs: the folder of the processes' output.
        measure_s: the approximate time of a configuration's timed rounds.
        limit_s: the time limit for compiling a configuration.
        threads: the host threads of each process.
        link_known: whether the planner is told which link is emulated; otherwise it uses the one
            that it assumes for the device.
        slices: the number of slices to force; ``None`` lets the planner choose.
        baseline: the other checkout, if one is measured.
        judged: whether float64 judges the gradients.
        measure_limit_s: the time limit for measuring a configuration.
        measuring_s: the usual time for measuring a configuration.
        planned_link: the link table to plan with on real links; empty for the device's own.
    """

    device: str
    logs: Path
    measure_s: float = 1.2
    limit_s: float = 150.0
    threads: int = 1
    link_known: bool = True
    slices: int | None = None
    baseline: Path | None = None
    judged: bool = False
    measure_limit_s: float = MEASURE_LIMIT_S
    measuring_s: float = MEASURE_S
    planned_link: str = ""

    def log_of(self, cell: Cell, rank: int = 0) -> Path:
        """Return the file for the output of a configuration's process, or of another rank's."""
        return self.logs / (f"{cell.number}.rank{rank}.log" if rank else f"{cell.number}.log")


def work(cell: Cell, settings: Settings, gpu: str, pipe: connection.Connection) -> None:
    """Call ``lane_worker.work``, for a process that has not loaded torch."""
    from benchmarks import lane_worker

    lane_worker.work(cell, settings, gpu, pipe)


def probe(pipe: connection.Connection) -> None:
    """Call ``lane_worker.probe``, for a process that has not loaded torch."""
    from benchmarks import lane_worker

    lane_worker.probe(pipe)


def baseline_work(target: Callable[..., None], *args: Any) -> None:
    """Call ``baseline.work``, for a process that has not loaded torch."""
    from benchmarks import baseline

    baseline.work(target, *args)


@dataclass
class Worker:
    """A process and what it has reported.

    Attributes:
        cell: its configuration.
        process: the process.
        pipe: the pipe to it.
        log: the file of its output.
        problem: why there is no result; empty if nothing went wrong.
        row: the result.
    """

    cell: Cell
    process: BaseProcess
    pipe: connection.Connection
    log: Path
    problem: str = ""
    row: Row | None = None

    def hear(self) -> None:
        """Receive its next message, or note that it has ended without one."""
        try:
            kind, content = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(END_S)
            code = self.process.exitcode
            self.problem = f"its process ended with code {code}: {last_line(self.log)}"
            return
        if kind == "failed":
            self.problem = content
            self.process.join(END_S)
        elif kind == "measured":
            self.row = content

    def end(self, problem: str = "") -> None:
        """End the process, even if it hangs."""
        self.problem = self.problem or problem
        self.process.kill()
        self.process.join(END_S)

    def result(self) -> Row:
        """Return the configuration's row, with an error if nothing was measured."""
        if self.row is not None:
            return self.row
        return failure(self.cell, self.problem or "not measured")


def failure(cell: Cell, problem: str) -> Row:
    """Return the row of a configuration without a result."""
    return {**asdict(cell), "emulated": bool(cell.link), "error": problem}


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty."""
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return "no log"
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "no output")


@dataclass
class Queue:
    """The remaining rounds and the results of the others, shared by all lanes.

    Attributes:
        rounds: the remaining rounds.
        done: receives the rows of some configurations.
        deadline: in ``time.monotonic``; no round is started that would end after it.
        took_s: the duration of each round.
    """

    rounds: list[list[Cell]]
    done: Callable[[Sequence[Row]], None]
    deadline: float
    took_s: list[float] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _again: set[int] = field(default_factory=set)

    def next(self) -> list[Cell]:
        """Return the next round; empty if there is none or no time for one."""
        with self._lock:
            expected_s = statistics.median(self.took_s) if self.took_s else 0.0
            if not self.rounds or time.monotonic() + expected_s > self.deadline:
                return []
            return self.rounds.pop(0)

    def put(self, rows: Sequence[Row]) -> None:
        """Receive results."""
        with self._lock:
            self.done(rows)

    def took(self, seconds: float) -> None:
        """Note the duration of a finished round."""
        with self._lock:
            self.took_s.append(seconds)

    def again(self, workers: Sequence[Worker]) -> None:
        """Retry, once and in smaller rounds, the configurations that ran out of memory."""
        with self._lock:
            full = [
                worker.cell
                for worker in workers
                if any(words in worker.problem for words in NO_ROOM)
                and worker.cell.number not in self._again
            ]
            self._again.update(cell.number for cell in full)
            if len(workers) > 1:
                self.rounds += [full[at : at + 2] for at in range(0, len(full), 2)]


@dataclass
class Lane:
    """One GPU, or the GPUs that all ranks of a configuration need, and the processes that use it.

    Attributes:
        gpu: the GPU or GPUs, as in ``CUDA_VISIBLE_DEVICES``; empty on the CPU.
        start: makes processes.
        target: the function that they run; ``work``, except in tests.
        settings: the settings of the processes and of this lane.
        queue: the queue of rounds.
        start_baseline: makes processes for another checkout's package, which must not have loaded
            this checkout's; ``None`` if no other checkout is measured.
    """

    gpu: str
    start: Start
    target: Callable[..., None]
    settings: Settings
    queue: Queue
    start_baseline: Start | None = None

    def run(self) -> None:
        """Run round after round until none is left."""
        while cells := self.queue.next():
            began = time.monotonic()
            workers: list[Worker] = []
            try:
                self._compile(cells, workers)
                self._measure(workers)
            except OSError as error:  # no more processes or pipes, or a full disk
                self._give_up(cells, workers, f"the round was given up: {error!r}")
            finally:
                for worker in workers:
                    worker.process.kill()
                for worker in workers:
                    worker.process.join(END_S)
                    worker.pipe.close()
            self.queue.again(workers)
            self.queue.took(time.monotonic() - began)

    def _give_up(self, cells: Sequence[Cell], workers: Sequence[Worker], problem: str) -> None:
        settled = {w.cell.number for w in workers if w.row is not None or w.problem}
        lost = [cell for cell in cells if cell.number not in settled]
        self.queue.put([failure(cell, problem) for cell in lost])

    def _start(self, cell: Cell) -> Worker:
        ours, theirs = connection.Pipe()
        start, target = self.start, self.target
        if cell.number >= BASELINE:
            assert self.start_baseline is not None
            start, target = self.start_baseline, partial(baseline_work, target)
        process = start(target, (cell, self.settings, self.gpu, theirs))
        theirs.close()
        return Worker(cell, process, ours, self.settings.log_of(cell))

    def _compile(self, cells: Sequence[Cell], workers: list[Worker]) -> None:
        began = time.monotonic()
        last = self.queue.deadline - self.settings.measuring_s * len(cells)
        until = min(began + self.settings.limit_s, max(last, began + self.settings.limit_s / 3))
        for cell in cells:
            workers.append(self._start(cell))
        waiting = {worker.pipe: worker for worker in workers}
        while waiting:
            ready = connection.wait(list(waiting), timeout=max(0.0, until - time.monotonic()))
            for pipe in ready:
                waiting.pop(pipe).hear()
            if not ready:
                for worker in waiting.values():
                    worker.end(
                        f"compiling took more than {until - began:.0f} s: {last_line(worker.log)}"
                    )
                break
        self._tell(workers)

    def _measure(self, workers: Sequence[Worker]) -> None:
        for worker in workers:
            if worker.problem:
                continue
            try:
                worker.pipe.send("measure")
            except OSError:
                worker.hear()
            else:
                if worker.pipe.poll(self.settings.measure_limit_s):
                    worker.hear()
                else:
                    worker.end(f"measuring took more than {self.settings.measure_limit_s:.0f} s")
            self.queue.put([worker.result()])

    def _tell(self, workers: Sequence[Worker]) -> None:
        """Report the rows of the configurations that have failed."""
        if failed := [worker.result() for worker in workers if worker.problem]:
            self.queue.put(failed)
