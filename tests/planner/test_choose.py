"""The choice as a pure function of predictions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domino_compile.planner.candidates import (
    INDUCTOR,
    MOST_SLICES,
    REORDERED,
    Candidate,
    row_candidates,
)
from domino_compile.planner.choose import LEAST_GAIN, Policy, Prediction, choose

ROWS, THREE, COLUMNS = Candidate((4, 4)), Candidate((3, 3, 2)), Candidate(columns=2)
POLICY = Policy(margin=0.03, memory_cap=0.05)


def predictions(
    alone: float, reordered: float, cuts: dict[Candidate, tuple[float, int]]
) -> list[Prediction]:
    whole = [Prediction(INDUCTOR, alone, 100), Prediction(REORDERED, reordered, 100)]
    return whole + [Prediction(c, us, size) for c, (us, size) in cuts.items()]


@pytest.mark.parametrize(
    ("reordered", "cuts", "expected", "why"),
    [
        (100, {ROWS: (90, 100), THREE: (80, 100)}, THREE, None),
        (100, {ROWS: (97, 100)}, ROWS, None),  # just the margin
        (100, {ROWS: (97.1, 100)}, INDUCTOR, "below the required 3.0%"),
        (99.5, {}, REORDERED, "no cut is predicted to pay"),
        (99.6, {}, INDUCTOR, "no cut is predicted to pay"),  # gains too little
        (
            90,
            {ROWS: (88, 100)},
            REORDERED,
            "compared with reordering alone",
        ),  # reordering alone does it
        (110, {ROWS: (120, 100)}, INDUCTOR, "below the required"),
        (100, {ROWS: (50, 106)}, INDUCTOR, "needs more memory than memory_cap=0.05"),
        (100, {ROWS: (50, 106), THREE: (60, 105)}, THREE, None),
        (100, {COLUMNS: (50, 100), ROWS: (50, 100)}, COLUMNS, None),  # named first
        (100, {}, INDUCTOR, "no cut is predicted to pay"),
    ],
)
def test_choices(
    reordered: float, cuts: dict[Candidate, tuple[float, int]], expected: Candidate, why: str | None
) -> None:
    found = predictions(100, reordered, cuts)
    choice = choose(found, POLICY)
    assert choice.chosen.candidate == expected
    if why is None:
        assert choice.reason is None and expected.cut
    else:
        assert choice.reason is not None and why in choice.reason.text
        assert "\n" not in choice.reason.text
    assert len(choice.verdicts) == len(found)
    for prediction, verdict in zip(found, choice.verdicts, strict=True):
        assert bool(verdict) == (prediction is not choice.chosen)


def test_a_small_loss_may_be_predicted_where_it_is_measured() -> None:
    policy = Policy(-0.02, 0.05)
    assert choose(predictions(100, 100, {ROWS: (102, 100)}), policy).chosen.candidate == ROWS
    found = choose(predictions(100, 100, {ROWS: (103, 100)}), policy)
    assert found.chosen.candidate == INDUCTOR and found.reason is not None
    assert "more than 2.0% slower" in found.reason.text


def test_any_cut_where_one_is_wanted() -> None:
    found = predictions(100, 90, {ROWS: (200, 100), THREE: (150, 1000)})
    assert choose(found, Policy(-math.inf, 0.05)).chosen.candidate == ROWS


def test_an_estimate_is_never_chosen() -> None:
    estimates = (Prediction(ROWS, us, 0, estimated=True) for us in (1.0, 200.0))
    found = [*predictions(100, 100, {}), *estimates]
    choice = choose(found, POLICY)
    assert choice.chosen.candidate == INDUCTOR
    assert choice.verdicts[-2].startswith("estimated slower than others")
    assert choice.verdicts[-1].endswith("even with everything hidden")


def test_why_a_little_faster_order_is_not_taken() -> None:
    assert choose(predictions(100, 99.6, {}), POLICY).verdicts == ("", "less than 0.5% faster")


times = st.floats(1.0, 1e6)
sizes = st.integers(1, 10**6)


@given(times, times, st.lists(st.tuples(times, sizes), max_size=6), st.floats(0, 0.9), sizes)
def test_never_predicted_slower(
    alone: float, reordered: float, cuts: list[tuple[float, int]], margin: float, size: int
) -> None:
    found = [Prediction(INDUCTOR, alone, size), Prediction(REORDERED, reordered, size)]
    found += [Prediction(Candidate((i + 1, 1)), *cut) for i, cut in enumerate(cuts)]
    policy = Policy(margin, 0.05)
    choice = choose(found, policy)
    assert choice == choose(found, policy)
    assert choice.chosen.us <= alone
    assert (1 - LEAST_GAIN) * choice.chosen.us <= min(alone, reordered)
    if choice.chosen.candidate.cut:
        assert choice.chosen.us <= (1 - margin) * min(alone, reordered)
        assert choice.chosen.peak_bytes <= 1.05 * size


@given(st.integers(1, 10_000), st.booleans())
def test_candidates_hold_all_rows(rows: int, uneven: bool) -> None:
    found = list(row_candidates(rows, rows, uneven))
    assert len(set(found)) == len(found)
    for candidate in found:
        assert sum(candidate.rows) == rows and min(candidate.rows) >= 1
        assert 2 <= len(candidate.rows) <= MOST_SLICES
        assert list(candidate.rows) == sorted(candidate.rows, reverse=True)
    assert bool(found) == (rows > 1)
