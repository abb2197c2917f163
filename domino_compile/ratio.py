"""Say how two times compare: ``1.24x faster (574 -> 462 ms)``. Every ratio is said this way."""

from __future__ import annotations

#: Units of time, the largest first, with their length in milliseconds.
_UNITS = (("s", 1e3), ("ms", 1.0), ("us", 1e-3))


def change_text(before_ms: float, after_ms: float) -> str:
    """Return how much faster or slower a program became, with both times.

    Args:
        before_ms: The time to compare with, in milliseconds.
        after_ms: The new time, in milliseconds.
    """
    return f"{factor_text(before_ms, after_ms)} ({times_text(before_ms, after_ms)})"


def factor_text(before_ms: float, after_ms: float) -> str:
    """Return the ratio of two times in words: ``1.24x faster``, ``1.05x slower``, ``as fast``."""
    if before_ms <= 0 or after_ms <= 0:
        return "not comparable"
    least, most = sorted((before_ms, after_ms))
    factor = f"{most / least:.2f}x" if most / least < 100 else f"{most / least:,.0f}x"
    if factor == "1.00x":
        return "as fast"
    return f"{factor} {'faster' if after_ms < before_ms else 'slower'}"


def times_text(before_ms: float, after_ms: float) -> str:
    """Return two times in one unit: ``574 -> 462 ms``."""
    name, length = _unit(max(before_ms, after_ms))
    return f"{_digits(before_ms / length)} -> {_digits(after_ms / length)} {name}"


def ms_text(milliseconds: float) -> str:
    """Return a time with three digits and a unit: ``462 ms``, ``46.2 us``."""
    name, length = _unit(milliseconds)
    return f"{_digits(milliseconds / length)} {name}"


def _unit(milliseconds: float) -> tuple[str, float]:
    # Steps are compared in milliseconds; seconds only where those have five digits.
    if milliseconds >= 10_000:
        return _UNITS[0]
    return _UNITS[1] if milliseconds >= 1 else _UNITS[2]


def _digits(value: float) -> str:
    """Return three significant digits without an exponent."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
