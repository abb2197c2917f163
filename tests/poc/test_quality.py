"""Curves compared, against noise and rounding."""

import math

import pytest

from domino_compile.poc.quality import (
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
