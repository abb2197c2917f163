"""Compares results with float64, separately for each parameter's gradient.

A single number for all gradients would be dominated by the largest one and hide a fault in one
layer. So each gradient has an error, and a program is judged by the worst ratio of its errors to
those of another program with the same precision (Inductor's).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

#: How much larger than Inductor's the error of a gradient may be.
MOST_RATIO = 1.1
#: The loss is a single number, whose relative rounding error can by chance be large or zero.
LOSS = "loss"


@dataclass(frozen=True)
class Error:
    """The norm of a result's difference from float64, divided by the norm in float64.

    Attributes:
        relative: The error of the result.
        rounding: The error of the float64 value rounded to the result's precision. No program is
            better, except by chance.
    """

    relative: float
    rounding: float


@dataclass(frozen=True)
class Comparison:
    """The result with the worst error in comparison with another program.

    Attributes:
        name: The name of the result.
        ratio: Its error divided by the other program's; errors below rounding count as rounding.
    """

    name: str
    ratio: float

    @property
    def passes(self) -> bool:
        """Return whether a different order of summation can explain the ratio."""
        return self.ratio <= MOST_RATIO


def errors(
    results: Mapping[str, torch.Tensor], exact: Mapping[str, torch.Tensor], device: str = "cpu"
) -> dict[str, Error]:
    """Return the error of each result.

    Args:
        results: A program's results.
        exact: The same results in float64. One that is missing in ``results`` counts as zero.
        device: The device to compute on.
    """
    result: dict[str, Error] = {}
    for name, value in exact.items():
        truth = value.to(device).double()
        given = results.get(name)
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


def worst(judged: Mapping[str, Error]) -> float:
    """Return the largest relative error of a gradient, or of the output if there is none."""
    return max((judged[name].relative for name in _judged(judged)), default=0.0)


def compare(judged: Mapping[str, Error], base: Mapping[str, Error]) -> Comparison:
    """Return the result with the worst error in comparison with another program.

    Args:
        judged: The errors of the program to judge.
        base: The errors of the program to compare with, for the same results.
    """
    ratios = {name: _ratio(judged[name], base[name]) for name in _judged(judged)}
    if not ratios:
        return Comparison("", 1.0)
    name = max(ratios, key=lambda name: ratios[name])
    return Comparison(name, ratios[name])


def _ratio(judged: Error, base: Error) -> float:
    floor = max(judged.rounding, base.rounding)
    given, held_to = max(judged.relative, floor), max(base.relative, floor)
    return 1.0 if given == held_to else given / held_to if held_to else float("inf")


def _judged(errors: Mapping[str, Error]) -> list[str]:
    """Return the gradients and outputs, or the loss if there is nothing else."""
    return [name for name in errors if name != LOSS] or list(errors)
