"""Sequence-parallel programs, also with odd lengths and dropout: cut and uncut are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.ranks.conftest import Pools
from tests.ranks.sequences import Case, drawn

pytestmark = pytest.mark.xdist_group("ranks")

#: Seeds of programs with all that this is about (see the last test), quick to compile.
NUMBERS = (1, 5, 7, 9, 10, 16)


@pytest.fixture(scope="module")
def seen() -> Iterator[Counter[str]]:
    """What became of the programs."""
    yield Counter()


@pytest.mark.parametrize("number", NUMBERS)
def test_cut_program_computes_what_the_uncut_one_does(
    pools: Pools, seen: Counter[str], number: int
) -> None:
    answers = pools[2].run("tests.ranks.sequences:run", number)
    wrong = [answer["wrong"] for answer in answers]
    assert not any(wrong), f"{wrong}\n{drawn(number, 2)}"
    outcomes = {answer["how"] for answer in answers}
    assert len(outcomes) == 1, outcomes
    seen.update(outcomes)


def test_most_programs_were_cut(seen: Counter[str]) -> None:
    if sum(seen.values()) < len(NUMBERS):
        pytest.skip("needs the programs of the test above")
    assert seen["tokens"] >= 2 and seen["rows"] >= 2, seen


def test_the_programs_have_all_that_this_is_about() -> None:
    cases = [drawn(number, 2) for number in NUMBERS]

    def is_odd(case: Case) -> bool:
        return case.tokens % 2 == 1

    assert {case.odd for case in cases if is_odd(case)} == {"padded", "uneven"}
    assert any(case.dropout and is_odd(case) for case in cases)
    assert any(case.dropout and case.batch > 1 for case in cases)
    assert any(case.dynamic for case in cases)
    assert {case.dim for case in cases} == {0, 1}
    assert {case.begin for case in cases} == {"shard", "whole", "ids"}
    assert {case.end for case in cases} == {"loss", "shard"}
