"""``pin``: every event stays behind the one before it, and collectives stay free."""

import operator

from hypothesis import given
from torch import fx

from domino_compile.graph.collectives import WAIT, c10d, is_launch
from domino_compile.passes.pin import feeds_launch, is_event, ordering_dependencies, pin_order
from domino_compile.passes.schedule import schedule_graph
from tests.passes.costs import COSTS
from tests.passes.graphs import Builder, aten, random_inputs, run, same
from tests.passes.random_graphs import graphs
from tests.profiles import examples


def ancestors(
    graph: fx.Graph, extra: dict[fx.Node, tuple[fx.Node, ...]]
) -> dict[fx.Node, set[fx.Node]]:
    found: dict[fx.Node, set[fx.Node]] = {}
    for node in graph.nodes:  # raises KeyError if anything depends on what comes later
        direct = {*node.all_input_nodes, *extra.get(node, ())}
        found[node] = direct.union(*(found[x] for x in direct))
    return found


@examples(100)
@given(graphs())
def test_events_follow_each_other(graph: fx.Graph) -> None:
    schedule_graph(graph, COSTS, 0.05)
    events = [n for n in graph.nodes if is_event(n)]
    after = ordering_dependencies(graph, events)
    reached = ancestors(graph, after)
    assert not any(is_launch(node) for node in after)
    assert not any(feeds_launch(earlier) for found in after.values() for earlier in found)
    before: set[fx.Node] = set()
    for event in events:
        if not is_launch(event):
            assert before <= reached[event]
        if not feeds_launch(event):
            before.add(event)


def test_a_launch_that_needs_nothing_does_not_separate_events() -> None:
    """As the all-gather of a value that forward saved, for recomputation."""
    b = Builder()
    x, saved = b.input("x", 4, 4), b.input("saved", 4, 4)
    before = b.call(aten.mm.default, x, x)
    launch = b.call(c10d.all_reduce.default, b.call(aten.relu.default, saved), "sum", "tp")
    behind = b.call(aten.mm.default, x, b.t(x))
    graph = b.output(before, b.call(WAIT, launch), behind)
    after = ordering_dependencies(graph, [n for n in graph.nodes if is_event(n)])
    assert after[behind] == (before, launch)


@examples(25)
@given(graphs())
def test_a_pinned_graph_computes_the_same(graph: fx.Graph) -> None:
    inputs = random_inputs(graph)
    expected = run(graph, inputs)
    launches = [n for n in graph.nodes if is_launch(n)]
    count = pin_order(graph)
    graph.lint()
    assert count == 0 or launches
    assert [n for n in graph.nodes if is_launch(n)] == launches
    assert same(run(graph, inputs), expected)


def test_a_graph_without_collectives_is_left_alone() -> None:
    b = Builder()
    x = b.input("x", 4, 4)
    graph = b.output(b.call(aten.mm.default, x, x), b.call(aten.mm.default, x, x))
    before = str(graph)
    assert pin_order(graph) == 0
    assert str(graph) == before


def test_a_buffer_that_a_collective_takes_over_is_seen_through_views_and_tuples() -> None:
    b = Builder()
    x = b.input("x", 4, 4)
    product = b.call(aten.mm.default, x, x)
    halves = b.call(aten.split.Tensor, product, 2)
    first = b.call(operator.getitem, halves, 0)
    other = b.call(aten.mm.default, x, x)
    graph = b.output(b.all_reduce(b.call(aten.view.default, first, [8])), other)
    assert feeds_launch(product)
    assert not feeds_launch(other)
    graph.lint()
