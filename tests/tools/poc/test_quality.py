"""Curves compared, against noise and rounding."""

import math

import pytest

from domino_compile.tools.poc.quality import (
    NOISE_FACTOR,
    SUMMED,
    Difference,
    compare,
    difference,
    rounding_floor,
)

FLOAT32, BFLOAT16 = 2.0**-23, 2.0**-7


def test_the_largest_difference_and_its_step() -> None:
    found = difference([[1.0, 2.0, 3.3], [1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0], [1.0, 2.2, 3.0]])
    assert found.step == 2 and found.relative == pytest.approx(0.1)


def test_equal_curves_do_not_differ() -> None:
    assert difference([[1.0, None]], [[1.0, None]]) == Difference()


def test_small_values_are_compared_with_the_curve() -> None:
    found = difference([[100.0, 1e-9]], [[100.0, 2e-9]])
    assert found.relative == pytest.approx(1e-9)  # of 1 % of 100


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_in_one_alone_differs_without_bound(bad: float) -> None:
    assert difference([[1.0, bad]], [[1.0, 2.0]]).relative == math.inf
    assert difference([[1.0, bad]], [[1.0, bad]]).relative == 0


def test_a_number_that_one_alone_has_differs_without_bound() -> None:
    for one, other in (([1.0, None], [1.0, 2.0]), ([1.0, 2.0], [1.0, None])):
        assert difference([one], [other]) == Difference(math.inf, 1)


@pytest.mark.parametrize(("baseline", "domino"), [(2.0, None), (None, 2.0)])
def test_a_quantity_that_one_alone_has_is_not_equal(
    baseline: float | None, domino: float | None
) -> None:
    found = compare("grad_norm", [[[baseline]]] * 2, [[[domino]]] * 2, FLOAT32)
    assert found is not None and not found.equal and found.difference == math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_a_baseline_round_without_a_number_does_not_allow_all(bad: float | None) -> None:
    found = compare("loss", [[[1.0, 2.0]], [[1.0, bad]]], [[[1.0, 900.0]]], FLOAT32)
    assert found is not None and not found.equal and not found.broken
    assert found.noise == math.inf and found.allowed == found.floor


def test_curves_that_end_in_what_is_not_finite_are_not_equal() -> None:
    curve = [1.0, math.nan, math.nan]
    found = compare("loss", [[curve]] * 2, [[curve]], FLOAT32)
    assert found is not None and not found.equal and found.broken and found.not_finite == 2
    ended = [1.0, math.inf, None]
    found = compare("loss", [[[1.0, 2.0, None], ended]] * 2, [[[1.0, 2.0, None], ended]], FLOAT32)
    assert found is not None and found.broken


def test_a_step_where_nothing_is_finite_is_left_out() -> None:
    """A gradient scaler's first steps overflow."""
    baseline, domino = [math.inf, 1.0], [math.inf, 1.5]
    found = compare("grad_norm", [[baseline]] * 2, [[baseline]], FLOAT32)
    assert found is not None and found.equal and found.not_finite == 1
    found = compare("grad_norm", [[baseline]] * 2, [[domino]], FLOAT32)
    assert found is not None and not found.equal and not found.broken and found.step == 1


def test_rounding_alone_is_equal() -> None:
    found = compare("loss", [[[1.0, 2.0]]] * 2, [[[1.0, 2.0 * (1 + SUMMED / 2)]]], FLOAT32)
    assert found is not None and found.equal and found.noise == 0 and found.step == 1


def test_more_than_rounding_and_noise_differs() -> None:
    found = compare("loss", [[[1.0, 2.0]]] * 2, [[[1.0, 2.001]]], FLOAT32)
    assert found is not None and not found.equal


def test_within_the_baselines_own_noise_is_equal() -> None:
    baseline = [[[1.0, 2.0]], [[1.0, 2.002]]]
    near, far = ([[[1.0, 2.002 + extra]]] for extra in (0.002, 0.02))
    assert (found := compare("loss", baseline, near, FLOAT32)) is not None and found.equal
    assert found.allowed == pytest.approx(NOISE_FACTOR * 0.001, rel=1e-2)
    assert (found := compare("loss", baseline, far, FLOAT32)) is not None and not found.equal


def test_one_baseline_run_has_no_noise() -> None:
    found = compare("loss", [[[1.0]]], [[[1.0]]], FLOAT32)
    assert found is not None and found.noise is None and found.equal


def test_a_quantity_that_no_step_has_is_not_compared() -> None:
    assert compare("loss", [[[None, None]]], [[[None, None]]], FLOAT32) is None


def test_floors() -> None:
    assert rounding_floor("loss", FLOAT32) == SUMMED
    assert rounding_floor("loss", BFLOAT16) == BFLOAT16
    assert rounding_floor("grad_norm", FLOAT32) == 10 * SUMMED
