"""Nodes that compute the sizes of slices."""

import torch
from torch import fx
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)

from domino_compile.axes import Chunks, to_size
from domino_compile.graph.size_nodes import SizeNodes


def test_an_input_has_the_symbol_in_which_sizes_are_written() -> None:
    """Torch looks for it by its name, to keep its value for backward."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    first, second = (
        mode.from_tensor(
            torch.ones(6),
            symbolic_context=StatelessSymbolicContext([DimDynamic.DYNAMIC]),
            source=ConstantSource(name),
        ).shape[0]
        for name in ("first", "second")
    )
    assert first == second  # from now on the second is written as the first
    graph = fx.Graph()
    rows = graph.placeholder("rows")
    rows.meta["val"] = second

    def fill_meta(node: fx.Node) -> None:
        operands = [x.meta["val"] if isinstance(x, fx.Node) else x for x in node.args]
        node.meta["val"] = node.target(*operands)  # type: ignore[operator]

    chunks = Chunks.even(to_size(second), 2)
    sizes = [SizeNodes(graph, chunks, fill_meta).node_or_int(size) for size in chunks.sizes]
    symbol = rows.meta["val"].node._expr
    assert symbol == first.node._expr != second.node._expr
    assert all(to_size(size.meta["val"]).free_symbols == {symbol} for size in sizes)


def test_a_size_that_is_read_from_a_tensor_is_made_behind_the_node_that_reads_it() -> None:
    mode = FakeTensorMode(shape_env=ShapeEnv())
    graph = fx.Graph()
    rows = graph.placeholder("rows")
    rows.meta["val"] = mode.from_tensor(
        torch.ones(6),
        symbolic_context=StatelessSymbolicContext([DimDynamic.DYNAMIC]),
        source=ConstantSource("rows"),
    )
    graph.call_function(torch.ops.aten.sum.default, (rows,))
    read = graph.call_function(torch.ops.aten._local_scalar_dense.default, (rows,))
    read.meta["val"] = mode.shape_env.create_unbacked_symint()
    last = graph.call_function(torch.ops.aten.relu.default, (rows,))

    def fill_meta(node: fx.Node) -> None:
        operands = [x.meta["val"] if isinstance(x, fx.Node) else x for x in node.args]
        node.meta["val"] = node.target(*operands)  # type: ignore[operator]

    count, length = to_size(read.meta["val"]), to_size(rows.meta["val"].shape[0])
    sizes = SizeNodes(graph, Chunks.even(6, 2), fill_meta)
    made = sizes.node_or_int(2 * count + length)
    assert to_size(made.meta["val"]) == 2 * count + length
    assert read < made < last
    graph.lint()
