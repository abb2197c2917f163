"""Which buffers graphs written by hand need, and how long; sizes in bytes."""

from collections.abc import Sequence

import torch
from torch import fx

from domino_compile.scheduling import Result, StepMemory, build_units, held_bytes, step_memory
from tests.passes.costs import COSTS
from tests.passes.graphs import Builder, aten

ROW = 16  # a row of four float32


def memory_of(graph: fx.Graph, forward: Sequence[Result] = ()) -> StepMemory:
    """Of the graph in the order that it is in; a backward graph's caller holds nothing."""
    backward = any(n.name.startswith("tangents") for n in graph.nodes)
    held = 0 if backward else held_bytes(graph)
    return step_memory(graph, build_units(graph, COSTS).units, held, forward)


def test_a_fused_group_makes_only_what_leaves_it() -> None:
    b = Builder()
    x = b.input("x", 4, 4)
    y = b.call(aten.view.default, b.call(aten.exp.default, b.call(aten.relu.default, x)), [2, 8])
    assert memory_of(b.output(b.call(aten.neg.default, y))).peak_bytes == 2 * 4 * ROW


def test_a_product_has_all_that_it_reads_and_makes() -> None:
    b = Builder()
    x, w = b.input("x", 8, 4), b.input("w", 4, 4)
    y = b.call(aten.mm.default, b.call(aten.mm.default, x, w), w)
    assert memory_of(b.output(y)).peak_bytes == (8 + 4 + 8 + 8) * ROW


def test_a_group_writes_over_what_it_reads_for_the_last_time() -> None:
    b = Builder()
    x, w = b.input("x", 8, 4), b.input("w", 4, 4)
    y = b.call(aten.relu.default, b.call(aten.mm.default, x, w))
    assert memory_of(b.output(y)).peak_bytes == (8 + 4 + 8) * ROW


def test_an_all_reduce_works_in_its_input_unless_that_is_needed() -> None:
    for needed, buffers in ((False, 1), (True, 2)):
        b = Builder()
        x, w = b.input("x", 4, 4), b.input("w", 4, 4)
        y = b.call(aten.mm.default, x, w)
        total = b.all_reduce(y)
        found = memory_of(b.output(total, y) if needed else b.output(total))
        assert found.peak_bytes == (2 + buffers) * 4 * ROW
        assert len({result.buffer for result in found.results}) == buffers


def test_an_all_reduce_of_an_input_has_a_buffer_of_its_own() -> None:
    b = Builder()
    assert memory_of(b.output(b.all_reduce(b.input("x", 4, 4)))).peak_bytes == 2 * 4 * ROW


def test_cheap_values_are_computed_anew_where_another_group_needs_them() -> None:
    b = Builder()
    x, w = b.input("x", 8, 4), b.input("w", 4, 4)
    cheap = b.call(aten.relu.default, x)
    total = b.call(aten.sum.dim_IntList, cheap, [0])
    y = b.call(aten.mm.default, x, w)
    result = b.call(aten.add.Tensor, y, cheap)
    assert memory_of(b.output(total, result)).peak_bytes == (8 + 4 + 1 + 8) * ROW


def test_a_scatter_writes_into_the_constant_that_it_is_given() -> None:
    b = Builder()
    x, rows = b.input("x", 2, 4), b.input("rows", 2, dtype=torch.int64)
    base = b.call(aten.full.default, [8, 4], 0.0, dtype=torch.float32, device="cpu")
    graph = b.output(b.call(aten.index_put.default, base, [rows], x, True))
    assert memory_of(graph).peak_bytes == (2 + 8) * ROW + 16


def test_backward_frees_what_forward_saved_and_keeps_gradients() -> None:
    b = Builder()
    saved, grad = b.input("saved", 8, 4), b.input("tangents_1", 8, 4)
    w = b.input("primals_1", 4, 4)
    masked = b.call(aten.mul.Tensor, grad, saved)  # written over one of the two
    first = b.call(aten.mm.default, masked, w)
    graph = b.output(first, b.call(aten.mm.default, b.t(masked), first))
    assert memory_of(graph).peak_bytes == (8 + 8 + 4) * ROW


def test_views_of_one_buffer_count_once_also_in_backward() -> None:
    b = Builder()
    x, w = b.input("primals_1", 4, 4), b.input("primals_2", 4, 8)
    y = b.call(aten.mm.default, x, w)
    halves = [b.call(aten.slice.Tensor, y, 1, start, start + 4) for start in (0, 4)]
    results = memory_of(b.output(*halves)).results
    assert [(r.bytes, r.buffer, r.buffer_bytes) for r in results] == [(64, 0, 128), (64, 0, 128)]

    b = Builder()
    first, second = b.input("slice_1", 4, 4), b.input("slice_2", 4, 4)
    grad = b.input("tangents_1", 1)
    product = b.call(aten.mm.default, first, first)
    graph = b.output(b.call(aten.mul.Tensor, product, grad), second)
    assert memory_of(graph, results).peak_bytes == 128 + 4 + 64
    assert memory_of(graph).peak_bytes == 2 * 64 + 4 + 64
    only = (Result(64, 0, 128),)
    assert memory_of(graph, only).peak_bytes == 2 * 64 + 4 + 64  # does not fit: not used


def test_what_a_sum_over_rows_and_its_group_both_need_is_stored() -> None:
    b = Builder()
    inputs = [b.input(f"x_{i}", 8, 4) for i in range(5)]
    value = inputs[0]
    for other in inputs[1:]:
        value = b.call(aten.add.Tensor, value, other)
    rows = b.call(aten.sum.dim_IntList, value, [0])
    columns = b.call(aten.sum.dim_IntList, b.call(aten.relu.default, value), [1])
    assert memory_of(b.output(rows, columns)).peak_bytes == 6 * 8 * ROW + ROW + 8 * 4
