"""The rules for kernels: what no kernel may compute together."""

import torch
from torch import fx

from domino_compile.graph.tags import mark_overlapped
from domino_compile.lowering.kernels import OverlapKernels
from tests.passes.graphs import Builder, aten


def cast_of_columns(dim: int, transposed: bool) -> fx.Graph:
    """The largest value of each column, or row, and a copy of the value by its inverse."""
    b = Builder()
    x = b.input("x", 64, 32)
    scale = b.call(aten.reciprocal.default, b.call(aten.amax.default, x, [dim], True))
    cast = b.call(aten.mul.Tensor, x, scale)
    if transposed:
        cast = b.call(aten.permute.default, cast, [1, 0])
    return b.output(b.call(aten.clone.default, cast, memory_format=torch.contiguous_format))


def kept_apart(graph: fx.Graph) -> bool:
    return OverlapKernels().keeps_apart(n for n in graph.nodes if n.op == "call_function")


def test_maxima_of_columns_and_a_transposed_copy_are_two_kernels() -> None:
    graph = cast_of_columns(0, transposed=True)
    assert not kept_apart(graph)  # not one of ours
    mark_overlapped(graph)
    assert kept_apart(graph)


def test_maxima_of_rows_or_a_plain_copy_stay_in_one_kernel() -> None:
    for graph in (cast_of_columns(1, transposed=True), cast_of_columns(0, transposed=False)):
        mark_overlapped(graph)
        assert not kept_apart(graph)
