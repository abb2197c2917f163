"""The transport between real ranks, in shared memory: equal to gloo's collectives."""

import pytest

from tests.ranks.conftest import Pools

pytestmark = pytest.mark.xdist_group("ranks")
HERE = "tests.transport.checks"


@pytest.mark.parametrize("world", [2, 4])
def test_every_operation_agrees_with_gloo(pools: Pools, world: int) -> None:
    held = pools[world].run(f"{HERE}:collectives", 8, timeout=240)
    assert len(set(held)) == 1
    assert not any(pools[world].run(f"{HERE}:left_behind"))


def test_two_groups_at_once(pools: Pools) -> None:
    assert pools[2].run(f"{HERE}:two_groups") == [True, True]


@pytest.mark.parametrize("world", [2, 4])
def test_a_rewritten_graph_computes_the_same(pools: Pools, world: int) -> None:
    (text, targets), *_ = pools[world].run(f"{HERE}:rewritten", timeout=240)
    assert text.startswith("4 of 4 collectives by copy engines")
    reduced = "exchange" if world == 2 else "reduce"
    assert targets[0] == f"domino_compile.{reduced}_start.default"
    assert targets.count("domino_compile.inbox_release.default") == (3 if world == 2 else 2)
    gathers = [target for target in targets if "gather" in target]
    assert gathers == [
        f"domino_compile.gather_{part}.default" for part in ("start", "wait", "release")
    ]


@pytest.mark.parametrize("world", [2, 4])
def test_training_with_all_checks(pools: Pools, world: int) -> None:
    said = pools[world].run(f"{HERE}:trained", "eager", timeout=240)
    assert len(set(said)) == 1
    carried = [int(part.split()[0]) for part in said[0].split("; ") if "by copy engines" in part]
    assert len(carried) == 2 and min(carried) >= 2, said[0]


def test_a_graph_that_one_rank_has_not_proved_runs_on_none(pools: Pools) -> None:
    """Each rank has a graph of its own, and the others must not wait for what it does not send."""
    first, second = pools[2].run(f"{HERE}:refused_on_one_rank", timeout=120)
    assert first[0] and second[0] and first[2] == second[2] == "[]"
    assert "is not proved to be equal on all ranks: rank 1" in first[1] and "made up" in second[1]


def test_ranks_share_no_compiled_code(pools: Pools) -> None:
    """Code that adds a rank's own chunk to what it receives is right on that rank only."""
    first, second = pools[2].run(f"{HERE}:environment")
    assert first != second


def test_a_rank_that_does_not_answer_is_named(pools: Pools) -> None:
    message, _ = pools[2].run(f"{HERE}:lonely")
    assert message.startswith("rank 1 of the group has not answered")
