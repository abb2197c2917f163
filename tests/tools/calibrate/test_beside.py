"""What times alone, beside and in turn say about contention."""

import pytest
import torch

from domino_compile.tools.calibrate.beside import (
    MOST_LOST,
    MOST_REGAINED,
    MOST_SLOWED,
    Times,
    contention_of,
)
from domino_compile.tools.calibrate.device import _scaled_probe, has_float8, probes, rates_of

#: Three products of 100 us and a collective of 100. Beside each other the collective takes 130 us;
#: meanwhile 100 us of products are done, and the other 200 follow.
TIMES = Times(100.0, 100.0, 330.0, 130.0, in_turn_us=370.0, works=3)


def test_times_become_slowdowns() -> None:
    copies = Times(500.0, 100.0, 510.0, 110.0, 600.0, 1)
    found = contention_of({"all_reduce": TIMES, "all_gather": TIMES}, copies)
    assert (found.products, found.memory) == (1.3, 1.1)
    assert found.collectives == {"all_reduce": 1.3, "all_gather": 1.3}
    assert found.regained == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("in_turn_us", "regained"), [(420.0, -0.2), (900.0, -MOST_LOST), (100.0, MOST_REGAINED)]
)
def test_what_is_regained_stays_within_bounds(in_turn_us: float, regained: float) -> None:
    assert Times(100.0, 100.0, 1.0, 1.0, in_turn_us, 3).regained == pytest.approx(regained)


def test_noise_makes_nothing_faster_and_nothing_stand_still() -> None:
    noisy = Times(100.0, 100.0, 299.0, 99.0, 400.0, 3)
    found = contention_of({"all_reduce": noisy}, noisy)
    assert (found.products, found.memory, found.of("all_reduce")) == (1.0, 1.0, 1.0)
    assert Times(100.0, 100.0, 440.0, 130.0, 500.0, 3).slowed == MOST_SLOWED  # in turn
    assert Times(100.0, 100.0, 500.0, 600.0, 500.0, 3).slowed == pytest.approx(500 / 300)


def test_rates_of_float8_products_are_the_best_of_their_shapes() -> None:
    device = torch.device("cpu")
    timed = [*probes(device), _scaled_probe((16, 16, 16), device), _scaled_probe((8, 8, 8), device)]
    times = [100.0] * (len(timed) - 2) + [4.0, 2.0]
    assert rates_of(timed, times)["float8_tflops"] == pytest.approx(2 * 16**3 / 4.0 / 1e6)
    assert "float8_tflops" not in rates_of(timed[:-2], times[:-2]) and not has_float8(device)
