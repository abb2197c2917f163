"""Measures what collectives and compute cost each other when both run at once (GPU).

In every round, in turn, so that all see the same clock and temperature::

    alone       products or copies alone; collectives alone
    beside      products or copies, timed while collectives run that outlast them; and collectives,
                timed while products run that outlast them
    in turn     some products and then a collective, on one stream: compute waits, as for exposed
                communication

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
TIMING_S = 0.06
#: How many times longer than what is timed the work beside it takes, if neither is slowed down.
OUTLAST = 2.5
#: The share of the time that products take when they and a collective take turns.
COMPUTING = 0.8
#: More than this share of a wait cannot be regained: the device draws power while it waits.
MOST_REGAINED = 0.9


@dataclass(frozen=True)
class Times:
    """Microseconds of one call.

    Attributes:
        work_us: A product or copy alone.
        wire_us: The collective alone.
        work_beside_us: The product or copy beside collectives.
        wire_beside_us: The collective beside products or copies.
        in_turn_us: ``works`` of the products or copies, and then the collective.
        works: How many.
    """

    work_us: float
    wire_us: float
    work_beside_us: float
    wire_beside_us: float
    in_turn_us: float
    works: int

    @property
    def regained(self) -> float:
        """Return the share of the time on the wire that compute regains after it has waited."""
        saved = self.works * self.work_us + self.wire_us - self.in_turn_us
        return min(MOST_REGAINED, max(0.0, saved / self.wire_us))


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
        products=statistics.mean(_ratio(t.work_beside_us, t.work_us) for t in found.values()),
        memory=_ratio(copies.work_beside_us, copies.work_us),
        collectives={name: _ratio(t.wire_beside_us, t.wire_us) for name, t in found.items()},
        regained=round(statistics.mean(t.regained for t in found.values()), 4),
    )


def _ratio(beside_us: float, alone_us: float) -> float:
    return round(max(1.0, beside_us / alone_us), 4)


def _times(ranks: Ranks, settings: Settings, work: Run, wire: Run) -> Times:
    """Return the times of work and a collective, each the median of the rounds."""
    clock, side = CudaClock(), torch.cuda.Stream(ranks.device)
    work_us, wire_us = _estimates(ranks, clock, work, wire)
    timing_us = max(settings.round_s, TIMING_S) * 1e6
    works, wires = (math.ceil(timing_us / us) for us in (work_us, wire_us))
    between = max(1, round(wire_us / work_us * COMPUTING / (1 - COMPUTING)))
    turns = math.ceil(timing_us / (between * work_us + wire_us))

    def in_turn() -> None:
        for _ in range(between):
            work()
        wire()

    def calls(timed_us: float, other_us: float) -> int:
        return math.ceil(OUTLAST * timed_us / other_us)

    def beside(timed: Run, count: int, other: Run, others: int) -> float:
        with torch.cuda.stream(side):
            for _ in range(others):
                other()
        return clock.time_us(timed, count)

    steps: tuple[Callable[[], float], ...] = (
        lambda: clock.time_us(work, works),
        lambda: clock.time_us(wire, wires),
        lambda: beside(work, works, wire, calls(works * work_us, wire_us)),
        lambda: beside(wire, wires, work, calls(wires * wire_us, work_us)),
        lambda: clock.time_us(in_turn, turns),
    )
    medians = _medians(ranks, settings.rounds, steps)
    alone_us, wire_alone_us, beside_us, wire_beside_us, in_turn_us = medians
    return Times(alone_us, wire_alone_us, beside_us, wire_beside_us, in_turn_us, between)


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
