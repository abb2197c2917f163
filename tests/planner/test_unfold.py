"""A graph as it will be partitioned: what backward recomputes, and what ``relayout`` removes."""

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from domino_compile.graph.collectives import is_launch
from domino_compile.planner import unfold
from tests.passes.costs import COSTS
from tests.passes.graphs import Builder, aten, random_inputs, run, same
from tests.passes.test_relayout import stack


def two_regions(marked: bool = True) -> fx.Graph:
    """Two checkpointed regions, each a product, its all-reduce and a tanh, and their gradients."""
    b = Builder()
    x, w = b.input("primals_1", 4, 4), b.input("primals_2", 4, 4)
    grad = b.input("tangents_1", 4, 4)
    values, made = [x], []
    for region in range(2):
        before = len(b.graph.nodes)
        hidden = b.call(aten.tanh.default, b.all_reduce(b.call(aten.mm.default, values[-1], w)))
        values.append(b.call(aten.mul.Tensor, hidden, hidden))
        made.append(hidden)
        for node in list(b.graph.nodes)[before:] if marked else ():
            node.meta["recompute"] = CheckpointPolicy.PREFER_RECOMPUTE
            node.meta["ac_graph_id"] = region
    results = []
    for source, hidden in reversed(list(zip(values, made, strict=False))):
        grad = b.call(aten.mul.Tensor, grad, hidden)
        grad = b.call(aten.tanh_backward.default, grad, hidden)
        results.append(b.call(aten.mm.default, b.t(source), grad))
        grad = b.all_reduce(b.call(aten.mm.default, grad, w))
    return b.output(values[-1], grad, *results)


def test_a_graph_without_regions_is_planned_as_it_is() -> None:
    graph = two_regions(marked=False)
    program = unfold(graph)
    assert program.graph is graph and not program.copies
    assert not any(unit.recomputed for unit in program.units(COSTS).units)


def test_regions_are_recomputed_where_they_are_needed() -> None:
    graph = two_regions()
    before = str(graph)
    program = unfold(graph)
    program.graph.lint()
    assert str(graph) == before
    copied = [program.origin(node).name for node in program.graph.nodes if node in program.copies]
    chain = ("mm", "all_reduce", "wait_tensor", "tanh")  # what one region gives the next is kept
    assert copied == [*(f"{name}_1" for name in chain), *chain]
    assert sum(is_launch(node) for node in program.graph.nodes) == 6


def test_the_unfolded_graph_computes_the_same() -> None:
    graph = two_regions()
    inputs = random_inputs(graph)
    assert same(run(unfold(graph).graph, inputs), run(graph, inputs))


def test_units_tell_what_is_recomputed() -> None:
    program = unfold(two_regions())
    for unit in program.units(COSTS).units:
        assert unit.recomputed == all(node in program.copies for node in unit.nodes)
    assert any(unit.recomputed and unit.launch for unit in program.units(COSTS).units)


def test_an_edge_of_the_captured_graph_is_found_in_both_places() -> None:
    graph = two_regions()
    program = unfold(graph)
    tanh = next(n for n in graph.nodes if n.name == "tanh_1")
    wait = tanh.all_input_nodes[0]
    assert len(program.edges(wait, tanh)) == 2
    gradient = next(n for n in graph.nodes if n.target is aten.tanh_backward.default)
    ((value, user),) = program.edges(tanh, gradient)
    assert value in program.copies and user in program.gradients


def test_what_is_cheap_behind_a_region_is_recomputed_with_its_collective() -> None:
    """The partitioner would rather run the region's collective again than keep a copy of it."""
    b = Builder()
    x, w = b.input("primals_1", 4, 4), b.input("primals_2", 4, 4)
    grad = b.input("tangents_1", 4, 4)
    result = b.all_reduce(b.call(aten.mm.default, x, w))
    for node in b.graph.nodes:
        if node.op == "call_function":
            node.meta["recompute"] = CheckpointPolicy.PREFER_RECOMPUTE
            node.meta["ac_graph_id"] = 0
    doubled = b.call(aten.mul.Tensor, result, 2.0)
    total = b.call(aten.sum.dim_IntList, doubled, [1], True)
    graph = b.output(total, b.call(aten.mul.Tensor, grad, doubled))
    program = unfold(graph)
    copied = [program.origin(node).name for node in program.graph.nodes if node in program.copies]
    assert copied == ["mm", "all_reduce", "wait_tensor", doubled.name]
    inputs = random_inputs(graph)
    assert same(run(program.graph, inputs), run(graph, inputs))


def in_row_order(keep: bool) -> fx.Graph:
    """Gathered tokens of two rows, put into row order for a product."""
    b = Builder()
    rows = stack(b, b.all_reduce(b.input("x", 8, 3, 16, dtype=torch.float64)), 2, 0, 1)
    product = b.call(
        aten.mm.default,
        b.call(aten.view.default, rows, [24, 16]),
        b.input("w", 16, 6, dtype=torch.float64),
    )
    return b.output(product, *([rows] if keep else []))


def test_what_relayout_removes_costs_nothing() -> None:
    """Only where that pass will run, and where it can: not where the value is returned."""
    for relaid, keep, copies in ((False, False, 1), (True, False, 0), (True, True, 1)):
        graph = in_row_order(keep)
        before = str(graph)
        program = unfold(graph, relaid)
        assert str(graph) == before and (program.graph is graph) == (copies == 1)
        units = [node.target for u in program.units(COSTS).units for node in u.nodes]
        assert units.count(aten.cat.default) == copies
        cat = graph.find_nodes(op="call_function", target=aten.cat.default)[0]
        assert any(program.origin(node) is cat for node in program.graph.nodes)
