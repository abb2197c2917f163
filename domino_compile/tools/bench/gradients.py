"""How far results are from float64, each parameter's gradient on its own.

One number for all gradients together would be that of the largest: a fault in the gradient of one
layer disappears in it. So each has an error, and a program is judged by the worst ratio of its
errors to those of another program of the same precision (Inductor's).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

#: How much larger than Inductor's the error of a gradient may be.
MOST_RATIO = 1.1
#: A number, of which rounding makes a large relative error as easily as none.
LOSS = "loss"


@dataclass(frozen=True)
class Error:
    """A result's difference from float64, as a norm over that of float64.

    Attributes:
        relative: of the result.
        rounding: of float64 itself, rounded to the result's precision: no program does better but
            by chance.
    """

    relative: float
    rounding: float


@dataclass(frozen=True)
class Comparison:
    """The result that is worst in comparison with another program's.

    Attributes:
        name: whose it is.
        ratio: of its error to that of the other program; errors below rounding count as rounding.
    """

    name: str
    ratio: float

    @property
    def passes(self) -> bool:
        """Whether it is no worse than what another order of summation may do."""
        return self.ratio <= MOST_RATIO


def errors(
    found: Mapping[str, torch.Tensor], exact: Mapping[str, torch.Tensor], device: str = "cpu"
) -> dict[str, Error]:
    """The error of each result.

    Args:
        found: a program's results.
        exact: the same in float64. A result that ``found`` lacks counts as zero.
        device: where to compute.
    """
    result: dict[str, Error] = {}
    for name, value in exact.items():
        truth = value.to(device).double()
        given = found.get(name)
        held = torch.zeros_like(truth) if given is None else given.to(device)
        rounded = truth if given is None else truth.to(held.dtype)
        norm = float(truth.norm())
        result[name] = Error(_over(held, truth, norm), _over(rounded, truth, norm))
    return result


def _over(value: torch.Tensor, truth: torch.Tensor, norm: float) -> float:
    off = float((value.double() - truth).norm())
    if off != off:
        return float("inf")
    if norm == 0:
        return 0.0 if off == 0 else float("inf")
    return off / norm


def worst(found: Mapping[str, Error]) -> float:
    """The largest relative error of a gradient, or of the output where there are none."""
    return max((found[name].relative for name in _judged(found)), default=0.0)


def compare(found: Mapping[str, Error], base: Mapping[str, Error]) -> Comparison:
    """Which result is worst in comparison with another program's.

    Args:
        found: the errors of the program that is judged.
        base: those of the one that it is held to, of the same results.
    """
    ratios = {name: _ratio(found[name], base[name]) for name in _judged(found)}
    if not ratios:
        return Comparison("", 1.0)
    name = max(ratios, key=lambda name: ratios[name])
    return Comparison(name, ratios[name])


def _ratio(found: Error, base: Error) -> float:
    floor = max(found.rounding, base.rounding)
    given, held_to = max(found.relative, floor), max(base.relative, floor)
    return 1.0 if given == held_to else given / held_to if held_to else float("inf")


def _judged(found: Mapping[str, Error]) -> list[str]:
    """The gradients and outputs; the loss only where there is nothing else."""
    return [name for name in found if name != LOSS] or list(found)
