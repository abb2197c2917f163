"""Two times compared in words."""

import pytest

from domino_compile.ratio import change_text, factor_text, ms_text, times_text


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (574.0, 462.0, "1.24x faster (574 -> 462 ms)"),
        (462.0, 485.2, "1.05x slower (462 -> 485 ms)"),
        (33.6, 33.6, "as fast (33.6 -> 33.6 ms)"),
        (0.714338, 0.509654, "1.40x faster (714 -> 510 us)"),
        (9.996, 1.0, "10.00x faster (10.0 -> 1.00 ms)"),
        (12_345.0, 1_000.0, "12.35x faster (12.3 -> 1.00 s)"),
        (1_100.0, 2.0, "550x faster (1,100 -> 2.00 ms)"),
        (0.0, 2.0, "not comparable (0.00 -> 2.00 ms)"),
    ],
)
def test_change(before: float, after: float, text: str) -> None:
    assert change_text(before, after) == text
    assert text == f"{factor_text(before, after)} ({times_text(before, after)})"


def test_one_time() -> None:
    assert (ms_text(462.4), ms_text(0.0462), ms_text(46_200)) == ("462 ms", "46.2 us", "46.2 s")
