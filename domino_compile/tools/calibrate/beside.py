"""Measures what collectives and compute cost each other when both run at once (GPU).

In every round, in turn, so that all see the same clock and temperature::

    alone       products or copies alone; collectives alone
    beside      a collective and products or copies that outlast it begin together, as in a step
                that hides communication; both wait for the end, and begin again
    in turn     as many products or copies and then a collective, on one stream: compute waits, as
                for exposed communication

A collective beside products takes multiprocessors as their thread blocks end. If collectives ran
one after another beside an endless queue of products, they would wait most of the time, and slow
products down less than in a step.

Rounds are long enough for the device's power limit to act. The slowest rank counts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from domino_compile.links import Contention
from domino_compile.tools.calibrate.clock import CudaClock, Run
from domino_compile.tools.calibrate.collectives import call_of, payload_of
from domino_compile.tools.calibrate.device import copy_probe, matmul_probe
from domino_compile.tools.calibrate.ranks import Ranks
from domino_compile.tools.calibrate.settings import MIB, Settings

#: The product: 8192 tokens with the inner width of a Llama 3 8B on two ranks.
PRODUCT = (8192, 4096, 4096)
#: The payload of the collectives, which is what 8192 tokens of 4096 bf16 values take.
PAYLOAD = 64 * MIB
#: The least duration of one timing, so that the clock settles at the power limit.
TIMING_S = 0.2
#: How many times longer than a collective the products beside it take, if neither is slowed down.
OUTLAST = 3.0
#: Work beside a collective takes at most this many times as long.
MOST_SLOWED = 4.0
#: More than this share of a wait cannot be regained: the device draws power while it waits.
MOST_REGAINED = 0.9
#: A wait costs at most this much more than the collective alone, as a share of its time.
MOST_LOST = 1.0


@dataclass(frozen=True)
class Times:
    """Microseconds.

    Attributes:
        work_us: One product or copy alone.
        wire_us: The collective alone.
        beside_us: ``works`` of the products or copies and the collective, which begin together.
        wire_beside_us: The collective's time among them, on the rank that arrives last.
        in_turn_us: ``works`` of the products or copies, and then the collective.
        works: How many.
    """

    work_us: float
    wire_us: float
    beside_us: float
    wire_beside_us: float
    in_turn_us: float
    works: int

    @property
    def slowed(self) -> float:
        """Return how many times longer work takes while the collective runs beside it."""
        wire = min(self.wire_beside_us, self.beside_us)
        done_meanwhile = self.works * self.work_us - (self.beside_us - wire)
        return max(1.0, min(MOST_SLOWED, wire / max(done_meanwhile, 1e-9)))

    @property
    def regained(self) -> float:
        """Return the share of the time on the wire that compute regains after it has waited.

        It is negative if waiting costs more than the collective alone takes, as when ranks arrive
        at different times.
        """
        saved = self.works * self.work_us + self.wire_us - self.in_turn_us
        return min(MOST_REGAINED, max(-MOST_LOST, saved / self.wire_us))


def measure(
    ranks: Ranks,
    settings: Settings,
    collectives: Sequence[str],
    group: Any,
    tick: Callable[[str], None],
) -> Contention:
    """Measure a group's collectives beside products and copies.

    Args:
        ranks: All ranks; each must make the same call.
        settings: The number of rounds.
        collectives: The collectives that the backend can run.
        group: The group of this rank.
        tick: A function that is told the next measurement.
    """
    product = matmul_probe(PRODUCT, torch.bfloat16, ranks.device).make()
    payload = payload_of(PAYLOAD, group.size(), torch.bfloat16, ranks.device)
    found = {}
    for name in collectives:
        tick(f"{name} beside products")
        found[name] = _times(ranks, settings, product, call_of(name, payload, group))
    tick("copies beside all_reduce")
    copy = copy_probe(ranks.device).make()
    copies = _times(ranks, settings, copy, call_of("all_reduce", payload, group))
    return contention_of(found, copies)


def contention_of(found: dict[str, Times], copies: Times) -> Contention:
    """Return the slowdowns that measured times show, at least 1 each.

    Args:
        found: The times of products and of each collective.
        copies: The times of copies and ``all_reduce``.
    """
    return Contention(
        product=PRODUCT,
        products=round(statistics.mean(t.slowed for t in found.values()), 4),
        memory=round(copies.slowed, 4),
        collectives={name: _ratio(t.wire_beside_us, t.wire_us) for name, t in found.items()},
        regained=round(statistics.mean(t.regained for t in found.values()), 4),
    )


def _ratio(beside_us: float, alone_us: float) -> float:
    return round(max(1.0, beside_us / alone_us), 4)


class Together:
    """Work and a collective that begin together, again and again.

    Args:
        work: One product or copy.
        works: How many outlast the collective.
        wire: The collective.
        side: The stream that it is called on.
    """

    def __init__(self, work: Run, works: int, wire: Run, side: torch.cuda.Stream) -> None:
        self._work, self._works, self._wire, self._side = work, works, wire, side
        self._ran: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __call__(self) -> None:
        """Run both once; the current stream waits for both."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        main = torch.cuda.current_stream()
        self._side.wait_stream(main)
        with torch.cuda.stream(self._side):
            begin.record()
            self._wire()
            end.record()
        for _ in range(self._works):
            self._work()
        main.wait_stream(self._side)
        self._ran.append((begin, end))

    def wire_us(self) -> float:
        """Return the median of the collective's times since the last call."""
        times = [float(begin.elapsed_time(end)) * 1e3 for begin, end in self._ran]
        self._ran.clear()
        return statistics.median(times)


def _times(ranks: Ranks, settings: Settings, work: Run, wire: Run) -> Times:
    """Return the times of work and a collective, each the median of the rounds."""
    clock = CudaClock()
    work_us, wire_us = _estimates(ranks, clock, work, wire)
    timing_us = max(settings.round_s, TIMING_S) * 1e6
    works = max(1, math.ceil(OUTLAST * wire_us / work_us))
    turns = math.ceil(timing_us / (works * work_us + wire_us))
    together = Together(work, works, wire, torch.cuda.Stream(ranks.device))

    def in_turn() -> None:
        for _ in range(works):
            work()
        wire()

    steps: tuple[Callable[[], float], ...] = (
        lambda: clock.time_us(work, math.ceil(timing_us / work_us)),
        lambda: clock.time_us(wire, math.ceil(timing_us / wire_us)),
        lambda: clock.time_us(together, turns),
        lambda: -together.wire_us(),  # a rank that arrives early waits: the quickest one counts
        lambda: clock.time_us(in_turn, turns),
    )
    alone_us, wire_alone_us, beside_us, wire_beside_us, in_turn_us = _medians(
        ranks, settings.rounds, steps
    )
    return Times(alone_us, wire_alone_us, beside_us, -wire_beside_us, in_turn_us, works)


def _medians(ranks: Ranks, rounds: int, steps: Sequence[Callable[[], float]]) -> list[float]:
    """Return each step's median over rounds in which all have their turn, on the slowest rank."""
    samples: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds):
        for step, taken in zip(steps, samples, strict=True):
            ranks.barrier()
            torch.cuda.synchronize()
            taken.append(step())
            torch.cuda.synchronize()
    return ranks.slowest([statistics.median(taken) for taken in samples])


def _estimates(ranks: Ranks, clock: CudaClock, work: Run, wire: Run) -> tuple[float, float]:
    """Return rough times, equal on all ranks, so that all make the same number of calls."""
    for run in (work, wire):
        clock.time_us(run, 2)  # connections, buffers
    ranks.barrier()
    work_us, wire_us = ranks.slowest([clock.time_us(run, 10) for run in (work, wire)])
    return work_us, wire_us
