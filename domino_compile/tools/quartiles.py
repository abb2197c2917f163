"""The spread of measurements, as all reports give it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def middle_half(values: Sequence[float]) -> tuple[float, float]:
    """Return the lower and upper quartile, neither of them beyond the values themselves."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
