"""What a fused kernel does: all that the time it takes depends on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fused:
    """The work of a fused kernel, or of a part of one.

    Attributes:
        bytes: what it reads and writes.
        hard: the elements of operations that take longer than moving them (``scheduling.traffic``).
        wide: whether it reduces rows so wide that Inductor goes over them twice.
        sums: how many sums over rows there are of what it makes: gradients of biases and of norms'
            weights.
        summed: the elements of what these add up.
    """

    bytes: float
    hard: float = 0.0
    wide: bool = False
    sums: int = 0
    summed: float = 0.0
