"""What a fused kernel does: all that the time it takes depends on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fused:
    """The work of a fused kernel, or of a part of one.

    Attributes:
        bytes: what it reads and writes.
        hard: the elements of operations that memory does not hide (``scheduling.traffic``).
        sums: how many sums over rows there are among its operations: gradients of biases and of
            norms' weights.
        summed: the elements of what these add up.
    """

    bytes: float
    hard: float = 0.0
    sums: int = 0
    summed: float = 0.0
