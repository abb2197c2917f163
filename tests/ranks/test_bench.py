"""``domino bench``: whether ranks fail alike is agreed on by real ranks."""

import pytest

from tests.ranks.conftest import Pools

pytestmark = pytest.mark.xdist_group("ranks")
NAME = "tests.tools.bench.failing:failures"


def test_what_fails_on_all_ranks_is_listed(pools: Pools) -> None:
    for listed, ended in pools[2].run(NAME, [0, 1]):
        assert listed == ["RuntimeError: out of memory"] and ended == ""


def test_a_rank_that_fails_alone_does_not_go_on(pools: Pools) -> None:
    works, fails = pools[2].run(NAME, [1])
    assert works == ([], "")
    assert fails == ([], "domino:3 failed: RuntimeError: out of memory")
