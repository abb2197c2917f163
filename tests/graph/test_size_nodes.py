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
