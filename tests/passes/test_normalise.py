"""``normalise``: merges what may be merged, and nothing else."""

from collections.abc import Callable

import pytest
import torch
from torch import fx

from domino_compile.graph.collectives import find_sites
from domino_compile.passes.normalise import normalise_graph
from domino_compile.passes.written import forward_writes
from tests.passes.graphs import Builder, aten, random_inputs, run, same

Terms = Callable[[Builder, fx.Node, fx.Node], tuple[fx.Node, ...]]


def added(b: Builder, left: fx.Node, right: fx.Node) -> tuple[fx.Node, ...]:
    return (b.call(aten.add.Tensor, left, right),)


def viewed(b: Builder, x: fx.Node, y: fx.Node) -> tuple[fx.Node, ...]:
    left, right = (b.call(aten.view.default, b.all_reduce(v), [2, 3, 4]) for v in (x, y))
    return added(b, left, right)


def viewed_back(b: Builder, x: fx.Node, y: fx.Node) -> tuple[fx.Node, ...]:
    flat = b.call(aten.view.default, x, [24])
    return added(b, b.call(aten.view.default, b.all_reduce(flat), [6, 4]), b.all_reduce(y))


def scaled_after(b: Builder, x: fx.Node, y: fx.Node) -> tuple[fx.Node, ...]:
    (total,) = added(b, b.all_reduce(x), b.all_reduce(y))
    return (b.call(aten.mul.Tensor, total, 3.0), total)


MERGED: dict[str, Terms] = {
    "plain": lambda b, x, y: added(b, b.all_reduce(x), b.all_reduce(y)),
    "equal views": viewed,
    "views undone": viewed_back,
    "sum used twice": scaled_after,
}


def used_elsewhere(b: Builder, x: fx.Node, y: fx.Node) -> tuple[fx.Node, ...]:
    left = b.all_reduce(x)
    return (*added(b, left, b.all_reduce(y)), b.call(aten.relu.default, left))


def launch_waited_twice(b: Builder, x: fx.Node, y: fx.Node) -> tuple[fx.Node, ...]:
    left = b.all_reduce(x)
    again = b.call(torch.ops._c10d_functional.wait_tensor.default, left.args[0])
    return (*added(b, left, b.all_reduce(y)), again)


def doubled(b: Builder, x: fx.Node, y: fx.Node) -> tuple[fx.Node, ...]:
    left = b.all_reduce(x)
    return added(b, left, left)


def with_alpha(b: Builder, x: fx.Node, y: fx.Node) -> tuple[fx.Node, ...]:
    return (b.call(aten.add.Tensor, b.all_reduce(x), b.all_reduce(y), alpha=2),)


def broadcast(b: Builder, x: fx.Node, y: fx.Node) -> tuple[fx.Node, ...]:
    row = b.call(aten.sum.dim_IntList, y, [0])
    return added(b, b.all_reduce(x), b.all_reduce(row))


def promoted(b: Builder, x: fx.Node, y: fx.Node) -> tuple[fx.Node, ...]:
    half = b.call(torch.ops.prims.convert_element_type.default, y, torch.bfloat16)
    return added(b, b.all_reduce(x), b.all_reduce(half))


def not_linear_between(b: Builder, x: fx.Node, y: fx.Node) -> tuple[fx.Node, ...]:
    return added(b, b.call(aten.relu.default, b.all_reduce(x)), b.all_reduce(y))


REFUSED: dict[str, Terms] = {
    "avg": lambda b, x, y: added(b, b.all_reduce(x, "avg"), b.all_reduce(y, "avg")),
    "max": lambda b, x, y: added(b, b.all_reduce(x, "max"), b.all_reduce(y, "max")),
    "sum and max": lambda b, x, y: added(b, b.all_reduce(x), b.all_reduce(y, "max")),
    "two groups": lambda b, x, y: added(b, b.all_reduce(x), b.all_reduce(y, group="dp")),
    "one side only": lambda b, x, y: added(b, b.all_reduce(x), y),
    "used elsewhere": used_elsewhere,
    "waited for twice": launch_waited_twice,
    "the same twice": doubled,
    "alpha": with_alpha,
    "broadcast": broadcast,
    "promoted": promoted,
    "relu between": not_linear_between,
    "difference": lambda b, x, y: (b.call(aten.sub.Tensor, b.all_reduce(x), b.all_reduce(y)),),
}


def make(terms: Terms) -> fx.Graph:
    b = Builder()
    x, y = b.input("x", 6, 4), b.input("y", 6, 4)
    return b.output(*terms(b, x, y))


@pytest.mark.parametrize("name", MERGED)
def test_a_sum_of_two_is_merged(name: str) -> None:
    graph = make(MERGED[name])
    inputs = random_inputs(graph)
    expected = run(graph, inputs)
    assert normalise_graph(graph).fewer == 1
    graph.lint()
    assert len(find_sites(graph)) == 1
    assert same(run(graph, inputs), expected)
    assert not normalise_graph(graph)


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_not_be_merged_is_left_alone(name: str) -> None:
    graph = make(REFUSED[name])
    before = str(graph)
    assert not normalise_graph(graph)
    assert str(graph) == before


def double(b: Builder, name: str, *shape: int) -> fx.Node:
    """An input of the type that it is run with: what is made empty has this type, too."""
    return b.input(name, *shape, dtype=torch.float64)


def written_back(b: Builder, buffer: fx.Node, x: fx.Node, rows: int = 6) -> tuple[fx.Node, fx.Node]:
    """Gather into a buffer as Megatron-core does; return the buffer's next version, and a read."""
    seen = b.call(aten.view.default, b.call(aten.slice.Tensor, buffer, 0, 0, 4 * rows), [rows, 4])
    flat = b.call(aten.view.default, b.call(aten.copy.default, seen, b.all_reduce(x)), [4 * rows])
    after = b.call(aten.slice_scatter.default, buffer, flat, 0, 0, 4 * rows)
    read = b.call(aten.slice.Tensor, after, 0, 0, 4 * rows)
    return after, b.call(aten.view.default, read, [rows, 4])


def test_what_a_shared_buffer_holds_is_read_without_it() -> None:
    b = Builder()
    x, buffer = double(b, "x", 6, 4), double(b, "buffer", 30)
    buffer_1, y = written_back(b, buffer, x)
    scores = b.call(aten.view.default, b.call(aten.slice.Tensor, buffer_1, 0, 0, 24), [1, 6, 4])
    lifted = b.call(aten.view.default, y, [1, 6, 4])
    square = b.call(aten.bmm.default, b.call(aten.permute.default, lifted, [0, 2, 1]), lifted)
    product = b.call(aten.baddbmm.default, scores, lifted, square, beta=0.0, alpha=0.5)
    buffer_2, z = written_back(b, buffer_1, b.call(aten.view.default, product, [6, 4]))
    graph = b.output(buffer_2, b.call(aten.relu.default, z))
    inputs = random_inputs(graph)
    before = run(graph, inputs)

    assert forward_writes(graph)
    assert same(run(graph, inputs), before)
    writes = graph.find_nodes(op="call_function", target=aten.slice_scatter.default)
    assert [write.args[0].name for write in writes] == ["buffer"]  # the last one, for the caller
    assert not graph.find_nodes(op="call_function", target=aten.slice.Tensor)


@pytest.mark.parametrize(("start", "end"), [(0, 20), (4, 24), (0, 30)])
def test_another_part_of_a_buffer_is_read_from_the_buffer(start: int, end: int) -> None:
    b = Builder()
    buffer_1, _ = written_back(b, double(b, "buffer", 30), double(b, "x", 6, 4))
    part = b.call(aten.slice_scatter.default, buffer_1, double(b, "y", 12), 0, 8, 20)
    graph = b.output(b.call(aten.slice.Tensor, part, 0, start, end), part)
    inputs = random_inputs(graph)
    before = run(graph, inputs)
    forward_writes(graph)
    assert same(run(graph, inputs), before)
    assert len(graph.find_nodes(op="call_function", target=aten.slice_scatter.default)) == 2


def test_an_empty_tensor_reads_no_value_for_its_type() -> None:
    b = Builder()
    x, y = double(b, "x", 6, 4), double(b, "y", 4, 6)
    empty = b.call(aten.new_empty_strided.default, b.all_reduce(x), [4, 6], [1, 4])
    graph = b.output(b.call(aten.copy.default, empty, y))
    inputs = random_inputs(graph)
    before = run(graph, inputs)
    assert forward_writes(graph)
    found = run(graph, inputs)
    assert same(found, before)
    after = found[0]
    assert after.dtype == torch.float64 and after.stride() == (1, 4)
    (made,) = graph.find_nodes(op="call_function", target=aten.empty_strided.default)
    assert not made.all_input_nodes
