"""Times repeated calls, with events on CUDA and with the host's clock on the CPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

import torch

Run = Callable[[], object]
MAX_ITERATIONS = 1000


class Clock(Protocol):
    """Times repetitions on one device."""

    def time_us(self, run: Run, iterations: int) -> float:
        """Return the microseconds of one call of ``run``, the mean of ``iterations`` in a row."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has finished all issued work."""
        ...


class CpuClock:
    """The host's clock, for calls that return when they have finished."""

    def time_us(self, run: Run, iterations: int) -> float:
        """See ``Clock``."""
        began = time.perf_counter_ns()
        for _ in range(iterations):
            run()
        return (time.perf_counter_ns() - began) / 1e3 / iterations

    def synchronize(self) -> None:
        """Do nothing: no work is pending on the CPU."""


class CudaClock:
    """Events on the current stream, which measure the device's time and not the host's.

    They include collectives, because torch makes the caller's stream wait for them.
    """

    def time_us(self, run: Run, iterations: int) -> float:
        """See ``Clock``."""
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(iterations):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e3 / iterations

    def synchronize(self) -> None:
        """See ``Clock``."""
        torch.cuda.synchronize()


def clock_for(device: torch.device) -> Clock:
    """Return the clock of a device."""
    return CudaClock() if device.type == "cuda" else CpuClock()


def iterations_for(estimate_us: float, round_s: float) -> int:
    """Return how many calls of ``estimate_us`` each take at least ``round_s`` seconds."""
    return min(MAX_ITERATIONS, max(1, math.ceil(round_s * 1e6 / max(estimate_us, 1e-3))))
