"""Which collectives get a slot, and what happens to those that do not."""

from collections.abc import Callable, Mapping

import pytest
from torch import fx

from domino_compile.graph.collectives import WAIT, c10d
from domino_compile.passes.transport import SLOTS, Carried, transport_collectives
from domino_compile.transport import choice, ops
from domino_compile.transport.choice import Choice
from tests.passes.graphs import Builder, aten

mm, relu = aten.mm.default, aten.relu.default


@pytest.fixture(autouse=True)
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every group has two ranks that can reach each other; this is the first."""
    monkeypatch.setattr(choice, "against_group", lambda name, device: "")
    monkeypatch.setattr("domino_compile._compat.group_size", lambda name: 2)
    monkeypatch.setattr("domino_compile._compat.rank_in", lambda name: 0)


def gathers(count: int, returned: bool = False, hidden: bool = True) -> fx.Graph:
    """Gathers that are all launched before the first is waited for."""
    b = Builder()
    x, w = b.input("x", 4, 6), b.input("w", 6, 6)
    launches = [
        b.call(c10d.all_gather_into_tensor.default, b.call(relu, x), 2, "tp") for _ in range(count)
    ]
    results = [b.call(mm, x, w)] if hidden else []
    waits = [b.call(WAIT, launch) for launch in launches]
    results += waits if returned else [b.call(relu, wait) for wait in waits]
    return b.output(*results)


def carry(
    graph: fx.Graph, agreed: Callable[[Mapping[fx.Node, str]], bool] = lambda _: True
) -> Carried:
    done = transport_collectives(graph, Choice("symmetric"), agreed)
    graph.lint()
    return done


def starts(graph: fx.Graph) -> list[str]:
    return [n.target.overloadpacket.__name__ for n in graph.nodes if n.target in ops.STARTS]  # type: ignore[union-attr]


def test_gathers_without_a_slot_are_copied_and_then_left_to_nccl() -> None:
    """First slots for results, then inboxes, then none."""
    graph = gathers(2 * SLOTS + 1)
    done = carry(graph)
    assert starts(graph) == ["gather_start"] * SLOTS + ["exchange_start"] * SLOTS
    assert list(done.carried.values()) == [*range(SLOTS), *range(SLOTS)]
    assert list(done.left.values()) == [f"more than {SLOTS} of its size are in use"]
    assert sum(n.target is c10d.all_gather_into_tensor.default for n in graph.nodes) == 1


def test_a_result_that_the_graph_returns_does_not_lie_in_a_slot() -> None:
    graph = gathers(1, returned=True)
    carry(graph)
    assert starts(graph) == ["exchange_start"]
    (output,) = graph.find_nodes(op="output")
    assert output.all_input_nodes[-1].target is aten.cat.default


def test_a_collective_that_nothing_hides_is_left_to_nccl() -> None:
    graph = gathers(1, hidden=False)
    assert list(carry(graph).left.values()) == ["nothing hides it"]
    assert not starts(graph)


def test_nothing_changes_if_the_ranks_disagree() -> None:
    graph, asked = gathers(2), []
    before = graph.python_code("self").src

    def refuse(ways: Mapping[fx.Node, str]) -> bool:
        asked.extend(ways.values())
        return False

    done = carry(graph, refuse)
    assert graph.python_code("self").src == before
    assert not done and set(done.left.values()) == {"the ranks would choose differently"}
    assert asked == [f"gathered slot {number} of 1024 bytes" for number in range(2)]
