"""The rounds of one GPU of ``side_by_side``: all compile at once, then measure in turn.

::

    compile   a process for each configuration of the round; nobody measures meanwhile
    measure   one at a time, when all have compiled, have failed or were ended; the others stand by
    end       all processes are ended, with whatever memory they hold

A process that crashes, hangs or runs out of memory costs its own configuration, which is recorded
with its error; the others go on.
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

#: What measuring a configuration may take before its process is ended, and what is reckoned with.
MEASURE_LIMIT_S, MEASURE_S = 30.0, 2.5
#: Numbers from here on are of configurations that another checkout's package is measured with.
BASELINE = 1000
#: How long to wait for a process that has been ended.
END_S = 10.0
#: How a process says that it found no room, in the words of torch's error and of the driver.
NO_ROOM = ("OutOfMemoryError", "out of memory")

Row = dict[str, Any]
#: Makes a process out of a function and its arguments.
Start = Callable[[Callable[..., None], tuple[Any, ...]], BaseProcess]


@dataclass(frozen=True)
class Settings:
    """What all configurations have in common.

    Attributes:
        device: ``cuda`` or ``cpu``.
        logs: folder of the processes' output.
        measure_s: about how long the timed rounds of a configuration take.
        limit_s: what compiling a configuration may take before its process is ended.
        threads: of the host, for each process.
        link_known: whether the planner is told which link is emulated; else it takes the one that
            it assumes for the device.
        slices: rows are cut into so many, whatever the planner thinks of it; ``None``: its choice.
        baseline: the other checkout, if one is measured.
        judged: whether float64 judges the gradients.
        measure_limit_s: what measuring a configuration may take before its process is ended.
        measuring_s: what it takes as a rule.
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

    def log_of(self, cell: Cell) -> Path:
        """Where the output of a configuration's process goes."""
        return self.logs / f"{cell.number}.log"


def work(cell: Cell, settings: Settings, gpu: str, pipe: connection.Connection) -> None:
    """``lane_worker.work``, for a process that has not loaded torch to name it."""
    from benchmarks import lane_worker

    lane_worker.work(cell, settings, gpu, pipe)


def probe(pipe: connection.Connection) -> None:
    """``lane_worker.probe``, likewise."""
    from benchmarks import lane_worker

    lane_worker.probe(pipe)


def baseline_work(target: Callable[..., None], *args: Any) -> None:
    """``baseline.work``, likewise."""
    from benchmarks import baseline

    baseline.work(target, *args)


@dataclass
class Worker:
    """A process and what has been heard of it.

    Attributes:
        cell: its configuration.
        process: itself.
        pipe: to it.
        log: its output.
        problem: why there is no result, if there is none.
        row: the result.
    """

    cell: Cell
    process: BaseProcess
    pipe: connection.Connection
    log: Path
    problem: str = ""
    row: Row | None = None

    def hear(self) -> None:
        """Take what it says, or that it has ended without a word."""
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
        """End the process, whatever it does."""
        self.problem = self.problem or problem
        self.process.kill()
        self.process.join(END_S)

    def result(self) -> Row:
        """The configuration's row, with an error where nothing was measured."""
        if self.row is not None:
            return self.row
        return failure(self.cell, self.problem or "not measured")


def failure(cell: Cell, problem: str) -> Row:
    """The row of a configuration of which there is no result."""
    return {**asdict(cell), "emulated": True, "error": problem}


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return "no log"
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "no output")


@dataclass
class Queue:
    """Rounds that are still to do, and what came of the others; shared by the lanes.

    Attributes:
        rounds: still to do.
        done: takes the rows of some configurations.
        deadline: of ``time.monotonic``; no round is started that would not end before it.
        took_s: how long each round has taken.
    """

    rounds: list[list[Cell]]
    done: Callable[[Sequence[Row]], None]
    deadline: float
    took_s: list[float] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _again: set[int] = field(default_factory=set)

    def next(self) -> list[Cell]:
        """The next round; empty if there is none or not the time for one."""
        with self._lock:
            expected_s = statistics.median(self.took_s) if self.took_s else 0.0
            if not self.rounds or time.monotonic() + expected_s > self.deadline:
                return []
            return self.rounds.pop(0)

    def put(self, rows: Sequence[Row]) -> None:
        """Take results."""
        with self._lock:
            self.done(rows)

    def took(self, seconds: float) -> None:
        """A round is done."""
        with self._lock:
            self.took_s.append(seconds)

    def again(self, workers: Sequence[Worker]) -> None:
        """Give those that found no room another round of fewer, once."""
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
    """One GPU and who works on it.

    Attributes:
        gpu: the GPU, as in ``CUDA_VISIBLE_DEVICES``; empty on the CPU.
        start: makes processes.
        target: what they run; ``work``, but for tests.
        settings: for them and for this.
        queue: of rounds.
        start_baseline: makes processes for another checkout's package, which must not have loaded
            this one's; ``None``: there are none.
    """

    gpu: str
    start: Start
    target: Callable[..., None]
    settings: Settings
    queue: Queue
    start_baseline: Start | None = None

    def run(self) -> None:
        """Round after round, until there is none."""
        while cells := self.queue.next():
            began = time.monotonic()
            workers: list[Worker] = []
            try:
                self._compile(cells, workers)
                self._measure(workers)
            except OSError as error:  # no process or no pipe is to be had, or a full disk
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
        """The rows of those that have failed."""
        if failed := [worker.result() for worker in workers if worker.problem]:
            self.queue.put(failed)
