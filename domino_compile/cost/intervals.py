"""Arithmetic on intervals of time."""

from __future__ import annotations

from collections.abc import Iterable


def union_us(pairs: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(pairs):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
