"""The work of a fused kernel, on which its predicted time depends."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fused:
    """The work of a fused kernel, or of a part of one.

    Attributes:
        bytes: The bytes read and written.
        hard: The elements of operations that take longer than moving their values
            (``scheduling.traffic``).
        wide: Whether it reduces rows so wide that Inductor goes over them twice.
        sums: The number of its results that are sums over rows, such as the gradients of biases and
            of norms' weights.
        summed: The number of elements that these sums add.
    """

    bytes: float
    hard: float = 0.0
    wide: bool = False
    sums: int = 0
    summed: float = 0.0
