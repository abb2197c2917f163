"""Real ranks that differ: they go on together, or with Inductor alone, or say why they cannot."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agreement import programs
from tests.agreement.programs import ABSENT
from tests.ranks.pool import Pool

pytestmark = pytest.mark.xdist_group("rank check")
PROGRAMS = "tests.agreement.programs"


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(2) as pool:
        yield pool


#: Each test has a program of its own: the ranks remember what they agreed on.
_rows = itertools.count(12)


def run(pool: Pool, case: list[dict[str, Any]]) -> list[str]:
    return pool.run(f"{PROGRAMS}:step", case, next(_rows))


def test_equal_plans_run(pool: Pool) -> None:
    assert run(pool, [{"slices": 2}] * 2) == ["sliced "] * 2


def test_the_timeout_of_a_group_is_known(pool: Pool) -> None:
    assert pool.run(f"{PROGRAMS}:timeout_of_a_group", 7.0) == [7.0] * 2


def test_the_check_can_be_left_out(pool: Pool) -> None:
    assert run(pool, [{"check_ranks": False, "slices": 2}] * 2) == ["sliced "] * 2


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ([{"slices": 2}, {"slices": 3}], "slices=3"),
        ([{}, {"slices": 2}], "slices=2"),
        ([{"slices": 2, "rates": "measured"}, {"slices": 2}], "DOMINO_COMPILE_RATES differ"),
    ],
    ids=["slices", "one leaves it alone", "rates"],
)
def test_ranks_that_differ_go_on_with_inductor_alone(
    pool: Pool, case: list[dict[str, Any]], said: str
) -> None:
    found = run(pool, case)
    assert all(outcome.startswith("inductor") for outcome in found), found
    assert any(said in outcome for outcome in found), found


def test_statistics_of_data_parallel_ranks_are_not_planned_and_nobody_waits(pool: Pool) -> None:
    """One rank compiles again for its smaller last batch."""
    for rank, found in enumerate(pool.run(f"{PROGRAMS}:statistics")):
        assert len(found["reports"]) == 1 + rank
        assert {status for status, _ in found["reports"]} == {"inductor"}


@pytest.mark.parametrize(
    "sends", [[[2, 4], [1, 5]], [[3, 3], [1, 5]], [[0, 6], [5, 1]], [[3, 3], [3, 3]]]
)
@pytest.mark.parametrize("options", [{}, {"slices": 2}], ids=["default", "two slices"])
def test_experts_get_as_many_rows_as_they_get(
    pool: Pool, sends: list[list[int]], options: dict[str, Any]
) -> None:
    found = pool.run(f"{PROGRAMS}:experts", sends, options)
    assert len({report[0] for rank in found for report in rank["reports"]}) == 1, found


def test_a_graph_that_breaks_on_one_rank_is_left_alone_and_the_line_is_named(pool: Pool) -> None:
    lines = Path(programs.__file__).read_text().splitlines()
    number = next(n for n, line in enumerate(lines, 1) if line.endswith("# <breaks>"))
    for found in pool.run(f"{PROGRAMS}:breaking"):
        (_, reason), *others = found["first"]["reports"]
        assert f"rank 0 broke at {programs.__file__}:{number}" in reason
        for status, why in (*others, *found["again"]["reports"]):
            assert status == "inductor" and f"programs.py:{number}" in why
    pool.stop()  # these ranks' group stays parted


@pytest.mark.parametrize("lowering", ["eager", "inductor"])
def test_layers_that_are_wider_on_one_rank_run(pool: Pool, lowering: str) -> None:
    found = pool.run(f"{PROGRAMS}:uneven", lowering)
    assert len({report[0] for rank in found for report in rank["reports"]}) == 1, found


def test_a_rank_that_compiles_a_planned_program_again_waits_for_nobody(pool: Pool) -> None:
    found = pool.run(f"{PROGRAMS}:again_alone")
    assert found == [{"compiled": n, "status": "sliced"} for n in (1, 2)]


def test_a_rank_that_does_not_come_is_named(pool: Pool) -> None:
    outcomes = run(pool, [{"check_timeout_s": 2, "slices": 4}, ABSENT])
    assert outcomes[0].startswith("REFUSED rank 1 of group")
    assert "check_timeout_s" in outcomes[0]
    pool.stop()  # this rank has a program that the other one has not
