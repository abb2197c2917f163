"""Whether two programs train alike: their curves, compared with the baseline's own noise."""

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
    """The largest relative difference between two curves, and its step."""

    relative: float = 0.0
    step: int | None = None


@dataclass(frozen=True)
class Quality:
    """One quantity of both programs compared.

    Attributes:
        name: ``loss``, ``grad_norm`` or ``output``.
        difference: The largest relative difference between a run of domino and one of the baseline.
        step: Its step, counted from 0; None if there is no difference.
        noise: The largest relative difference between two runs of the baseline; None with one run.
        floor: The difference that rounding alone can cause.
        allowed: The larger of the floor and ``NOISE_FACTOR`` times the noise, if that is finite.
        equal: Whether the difference is allowed and the curves end in finite numbers.
        not_finite: Steps in which a number is not finite. If that is so in all runs, the step is no
            difference.
    """

    name: str
    difference: float
    step: int | None
    noise: float | None
    floor: float
    allowed: float
    equal: bool
    not_finite: int = 0

    @property
    def broken(self) -> bool:
        """Return whether the programs do not differ, but end with numbers that are not finite."""
        return not self.equal and self.difference <= self.allowed


def rounding_floor(name: str, precision: float) -> float:
    """Return the relative difference that rounding alone can cause.

    Args:
        name: The name of the quantity.
        precision: Relative rounding of the coarsest type that the model computes in.
    """
    return max(precision, SUMMED) * FLOOR_FACTOR[name]


def difference(one: Run, other: Run) -> Difference:
    """Return the largest difference of two runs, rank by rank and step by step.

    A number that is missing or not finite in one of them alone is an infinite difference. Where
    both are not finite, in the same way, there is none.
    """
    worst = Difference()
    for mine, yours in zip(one, other, strict=True):
        highest = max((abs(v) for v in yours if v is not None and math.isfinite(v)), default=0.0)
        for step, (a, b) in enumerate(zip(mine, yours, strict=False)):
            relative = _relative(a, b, LOWEST * highest)
            if relative > worst.relative:
                worst = Difference(relative, step)
    return worst


def _relative(a: float | None, b: float | None, lowest: float) -> float:
    if a is None or b is None:
        return 0.0 if a is b else math.inf
    if not (math.isfinite(a) and math.isfinite(b)):
        return 0.0 if a == b or (math.isnan(a) and math.isnan(b)) else math.inf
    if a == b:
        return 0.0
    return abs(a - b) / max(abs(b), lowest, 1e-30)


def compare(
    name: str, baseline: Sequence[Run], domino: Sequence[Run], precision: float
) -> Quality | None:
    """Compare a quantity of all runs; None if no step has it."""
    curves = [curve for run in (*baseline, *domino) for curve in run]
    if not any(value is not None for curve in curves for value in curve):
        return None
    worst = max(
        (difference(run, base) for run in domino for base in baseline),
        key=lambda compared: compared.relative,
        default=Difference(),
    )
    pairs = [difference(a, b).relative for a, b in combinations(baseline, 2)]
    noise = max(pairs) if pairs else None
    floor = rounding_floor(name, precision)
    allowed = floor
    if noise is not None and math.isfinite(noise):  # else all would be allowed
        allowed = max(floor, NOISE_FACTOR * noise)
    steps = {n for curve in curves for n, value in enumerate(curve) if not _finite(value)}
    equal = worst.relative <= allowed and all(_finite(_last(curve)) for curve in curves)
    return Quality(name, worst.relative, worst.step, noise, floor, allowed, equal, len(steps))


def _finite(value: float | None) -> bool:
    """Return whether a number is finite, or there is none."""
    return value is None or math.isfinite(value)


def _last(curve: Curve) -> float | None:
    return next((value for value in reversed(curve) if value is not None), None)
