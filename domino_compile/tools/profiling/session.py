"""The phases of a measured run: warm-up, timed steps, traced steps.

The profiler is off while steps are timed, and nothing is computed between them: times are marks
(events on a GPU), and numbers stay on the device until the end.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from domino_compile import _compat, emulate
from domino_compile.emulate.trace import Record
from domino_compile.tools.profiling.trace import Trace, Tracer
from domino_compile.tools.scripts.steps import Facts

#: Told what happens, as a line for a person, and how far the whole is (0 to 1).
Progress = Callable[[str, float], None]
_RESET_PEAK = "5"  # of /proc/self/clear_refs, see proc(5)


@dataclass(frozen=True)
class Phases:
    """The number of steps of each kind.

    Attributes:
        warmup: Steps before any is measured: compilation, and CUDA graphs in the second and third.
        steps: Timed steps, without the profiler.
        traced: Steps under the profiler; of several the first, in which it starts, is dropped.
    """

    warmup: int = 4
    steps: int = 10
    traced: int = 3

    @property
    def whole(self) -> int:
        """Return the number of all steps."""
        return self.warmup + self.steps + self.traced


class Session:
    """Follows the steps of this process through the phases.

    Args:
        phases: The number of steps of each kind.
        finished: Called when the last step has ended, by the thread that runs the steps.
        progress: Told after every step.
    """

    def __init__(
        self,
        phases: Phases,
        finished: Callable[[], None] = lambda: None,
        progress: Progress = lambda text, share: None,
    ) -> None:
        self.phases = phases
        self.on_gpu = False
        self.facts: list[Facts] = []
        self.traces: list[Trace] = []
        self.records: list[list[Record]] = []
        self.peak_mib: float | None = None
        self.peak_of = ""
        self._finished, self._progress = finished, progress
        self._count = 0
        self._marks: list[Any] = []
        self._times: list[float] | None = None
        self._tracer: Tracer | None = None
        self._compile_began: float | None = None
        self._first_s: float | None = None

    def compile_began(self) -> None:
        """Note that a graph is about to be compiled."""
        if self._compile_began is None:
            self._compile_began = time.perf_counter()
        self._progress("compiling", self._share)

    def restarted(self) -> None:
        """Forget the steps so far: they were none."""
        if self._tracer is not None:
            self._tracer.end()
            self._tracer = None
        self._count, self.facts, self.traces, self.records = 0, [], [], []
        self._marks, self._times = [], None

    @property
    def done(self) -> bool:
        """Return whether all phases are over."""
        return self._count >= self.phases.whole

    def ended(self, facts: Facts | None = None) -> None:
        """Note that a step has ended."""
        if self.done:
            return
        if self._first_s is None and self._compile_began is not None:
            self._first_s = time.perf_counter() - self._compile_began
        self.facts.append(facts or Facts())
        phase = self._phase
        if phase == "timed":
            self._marks.append(self._mark())
            self.records.append(_take_records())
        elif self._tracer is not None:
            self._tracer.step(_take_records())
        self._count += 1
        self._progress(f"step {self._count} of {self.phases.whole}: {phase}", self._share)
        self._enter()

    @property
    def _phase(self) -> str:
        if self._count < self.phases.warmup:
            return "warm-up"
        return "timed" if self._count < self.phases.warmup + self.phases.steps else "traced"

    @property
    def _share(self) -> float:
        """Return how far it is; compiling, in the first step, takes as long as many others."""
        return min(1.0, (self._count + 5) / (self.phases.whole + 5))

    def _enter(self) -> None:
        """Do what is to be done between the step that ended and the next."""
        if self._count == self.phases.warmup:
            self.on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
            if self.on_gpu:
                torch.cuda.synchronize()
            self.peak_of = _reset_peak(self.on_gpu)
            _take_records()
            self._marks.append(self._mark())
        if self._count == self.phases.warmup + self.phases.steps:
            self.peak_mib = _peak_mib(self.peak_of)
            _ = self.step_ms  # the marks' events are read while their device is there
            self._start_tracing()
        if self.done:
            self.stop_tracing()
            self._finished()

    def _start_tracing(self) -> None:
        if self.phases.traced and not _compat.profiler_runs():
            self._tracer = Tracer(self.on_gpu)
            self._tracer.begin()

    def stop_tracing(self) -> None:
        """Stop the profiler if it runs, also where the script ends in the middle."""
        if self._tracer is not None:
            self.traces = self._tracer.end()
            self._tracer = None

    def _mark(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @property
    def step_ms(self) -> list[float]:
        """Return the times of the timed steps that have ended."""
        if self._times is None or len(self._times) < len(self._marks) - 1:
            if self.on_gpu:
                torch.cuda.synchronize()
                pairs = zip(self._marks, self._marks[1:], strict=False)
                self._times = [float(begin.elapsed_time(end)) for begin, end in pairs]
            else:
                pairs = zip(self._marks, self._marks[1:], strict=False)
                self._times = [(end - begin) * 1e3 for begin, end in pairs]
        return self._times

    @property
    def compile_s(self) -> float | None:
        """Return the time from the first compile to the end of its step, less a usual step."""
        if self._first_s is None or not self.step_ms:
            return None
        return max(0.0, self._first_s - statistics.median(self.step_ms) / 1e3)


def _take_records() -> list[Record]:
    """Return the records of the emulated link since the last time."""
    records = emulate.trace()
    emulate.reset_trace()
    return records


def _reset_peak(on_gpu: bool) -> str:
    """Begin a new peak of memory where that is possible; return what the peak is of."""
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        return "GPU memory allocated by torch, of the timed steps"
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
        return "resident memory, of the timed steps"
    return "resident memory, compiling included"


def _peak_mib(what: str) -> float:
    if what.startswith("GPU"):
        return torch.cuda.max_memory_allocated() / 2**20
    if what.endswith("of the timed steps"):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)
