"""The verdict on two trainings in float8 can fail, and its noise is that of the baseline."""

from benchmarks.float8_convergence import compared, stretches

UNCUT = [4.0, 3.0, 2.0, 1.0]


def test_stretches_are_means() -> None:
    assert stretches([1.0, 3.0, 5.0], 2) == [2.0, 5.0]


def test_a_difference_below_the_noise_passes() -> None:
    row = compared(UNCUT, [4.0, 3.0, 2.0, 1.001], [[4.0, 3.0, 2.0, 1.002]], 2)
    assert row["within_noise"] and 0 < row["difference"] < row["noise"]
    assert row["steps_equal_bit_by_bit"] == 3


def test_a_difference_above_the_noise_fails() -> None:
    row = compared(UNCUT, [4.0, 3.0, 2.0, 1.1], [[4.0, 3.0, 2.0, 1.001]], 2)
    assert not row["within_noise"]


def test_a_curve_that_is_not_finite_fails() -> None:
    noisy = [[4.0, 3.0, 2.0, 1.001]]
    assert not compared(UNCUT, [4.0, 3.0, 2.0, float("nan")], noisy, 2)["within_noise"]
