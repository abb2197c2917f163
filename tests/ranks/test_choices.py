"""How a product is computed is the same on all ranks that compute the same."""

import pytest

from domino_compile.gemm.choices import choose
from domino_compile.gemm.tune import Way
from tests.gemm.test_op import question
from tests.ranks.conftest import Pools

pytestmark = pytest.mark.xdist_group("ranks")


def chosen(rank: int, world: int) -> list[float]:
    """What a rank is told, asked twice, where each would decide something of its own."""
    decisions = ((Way(None, base + rank, 0.0),) for base in (10.0, 20.0))
    return [choose(question(64), lambda own=own: own)[0].alone_us for own in decisions]


def chosen_of_its_own_shape(rank: int, world: int) -> float:
    """What a rank is told of a product that no other has."""
    return choose(question(96 + 2 * rank), lambda: (Way(None, float(rank), 0.0),))[0].alone_us


def test_all_ranks_are_told_what_the_first_decided(pools: Pools) -> None:
    told = pools[4].run("tests.ranks.test_choices:chosen")
    assert len({tuple(each) for each in told}) == 1
    assert told[0][0] == told[0][1] in {10.0, 11.0, 12.0, 13.0}


def test_a_rank_with_a_shape_of_its_own_waits_for_nobody(pools: Pools) -> None:
    told = pools[4].run("tests.ranks.test_choices:chosen_of_its_own_shape")
    assert told == [0.0, 1.0, 2.0, 3.0]
