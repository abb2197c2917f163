"""The memory that orders may need where collectives are recomputed."""

import pytest

from domino_compile.scheduling import Unit, UnitGraph, allowed_bytes, inductors_bytes
from domino_compile.scheduling.recompute import MORE_GATHERED, MORE_REDUCED, own_orders


def checkpointed(
    recomputed: bool = True, gathers: bool = True, activation: int = 1000
) -> UnitGraph:
    """Return the backward of a block whose collective is recomputed, with a saved input."""
    product = Unit(0, [], False, 10.0, out_bytes=activation, recomputed=recomputed)
    launch = Unit(1, [], True, 10.0, "tp", out_bytes=activation, recomputed=recomputed)
    launch.after, launch.keeps_input = {0}, gathers
    used = Unit(2, [], False, 10.0, out_bytes=activation)
    used.after, used.after_wire = {1}, {1}
    return UnitGraph([product, launch, used], [(2000, {0})], {2})


def least(graph: UnitGraph) -> int:
    return min(order.peak_bytes for order in own_orders(graph))


@pytest.mark.parametrize(("gathers", "more"), [(True, MORE_GATHERED), (False, MORE_REDUCED)])
def test_inductor_is_granted_more_where_collectives_are_recomputed(
    gathers: bool, more: float
) -> None:
    graph = checkpointed(gathers=gathers)
    assert inductors_bytes(graph) == pytest.approx(least(graph) * (1 + more))
    assert inductors_bytes(graph, [4000, 5000]) == pytest.approx(4000 * (1 + more))


def test_nothing_more_is_granted_elsewhere() -> None:
    graph = checkpointed(recomputed=False)
    assert inductors_bytes(graph) == least(graph)


def test_never_more_than_one_block_is_granted() -> None:
    graph = checkpointed(activation=10)
    assert inductors_bytes(graph) == least(graph) + 20


def test_the_cap_counts_what_the_caller_holds() -> None:
    assert allowed_bytes(100, 0.03, 900) == pytest.approx(130)
