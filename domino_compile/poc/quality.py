"""Whether two programs train alike: their curves, against the baseline's own noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

#: One number a step, on one rank; None where a step has none.
Curve = Sequence[float | None]
#: The curves of one run, one for every rank.
Run = Sequence[Curve]

#: A difference between the programs may be so many times the one between baseline runs: a few
#: runs show less than the whole spread.
NOISE_FACTOR = 3.0
#: Rounding that a longer sum, or a few steps of training, make of one of float32's.
SUMMED = 1000 * 2.0**-23
#: A gradient norm is made of differences; it moves more than the loss does.
FLOOR_FACTOR = {"loss": 1.0, "grad_norm": 10.0, "output": 10.0}
#: Where a curve falls below this part of its highest value it is compared with that.
LOWEST = 0.01


@dataclass(frozen=True)
class Difference:
    """The largest relative difference between two curves, and the step where it is."""

    relative: float = 0.0
    step: int | None = None


@dataclass(frozen=True)
class Quality:
    """One quantity of both programs compared.

    Attributes:
        name: ``loss``, ``grad_norm`` or ``output``.
        difference: the largest relative one between a run of domino and one of the baseline.
        step: where, counted from 0; None if there is none.
        noise: the largest relative one between two runs of the baseline; None with a single run.
        floor: what rounding alone can make.
        allowed: the larger of the floor and ``NOISE_FACTOR`` times the noise.
        equal: whether the difference is allowed.
    """

    name: str
    difference: float
    step: int | None
    noise: float | None
    floor: float
    allowed: float
    equal: bool


def rounding_floor(name: str, precision: float) -> float:
    """What rounding alone can make of a quantity.

    Args:
        name: of the quantity.
        precision: relative rounding of the coarsest type that the model computes in.
    """
    return max(precision, SUMMED) * FLOOR_FACTOR[name]


def difference(one: Run, other: Run) -> Difference:
    """The largest difference of two runs, rank by rank and step by step.

    A number that is not finite in one of them alone is an infinite difference.
    """
    worst = Difference()
    for mine, yours in zip(one, other, strict=True):
        highest = max((abs(v) for v in yours if v is not None and math.isfinite(v)), default=0.0)
        for step, (a, b) in enumerate(zip(mine, yours, strict=False)):
            if a is None or b is None:
                continue
            found = _relative(a, b, LOWEST * highest)
            if found > worst.relative:
                worst = Difference(found, step)
    return worst


def _relative(a: float, b: float, lowest: float) -> float:
    if not (math.isfinite(a) and math.isfinite(b)):
        return 0.0 if a == b or (math.isnan(a) and math.isnan(b)) else math.inf
    if a == b:
        return 0.0
    return abs(a - b) / max(abs(b), lowest, 1e-30)


def compare(
    name: str, baseline: Sequence[Run], domino: Sequence[Run], precision: float
) -> Quality | None:
    """Compare a quantity of all runs; None if no step has it."""
    if not any(v is not None for run in baseline for curve in run for v in curve):
        return None
    worst = max(
        (difference(run, base) for run in domino for base in baseline),
        key=lambda found: found.relative,
        default=Difference(),
    )
    pairs = [difference(a, b).relative for a, b in combinations(baseline, 2)]
    noise = max(pairs) if pairs else None
    floor = rounding_floor(name, precision)
    allowed = max(floor, NOISE_FACTOR * (noise or 0.0))
    return Quality(
        name, worst.relative, worst.step, noise, floor, allowed, worst.relative <= allowed
    )
