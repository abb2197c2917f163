"""The nodes of slices: named and tagged after the node they stand for, with their values."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from domino_compile import _compat
from domino_compile.axes import Chunks, Size
from domino_compile.graph.collectives import size_hint
from domino_compile.graph.new_nodes import inherit, run_fake
from domino_compile.graph.size_nodes import SizeNodes
from domino_compile.graph.tags import clear_tag, tag_column, tag_slice

aten = torch.ops.aten
#: Views that fail on some strides, unlike ``reshape``.
STRICT_VIEWS = (aten.view.default, aten._unsafe_view.default)
#: Checkpointing marks of a cut operation, which a join or a cut of its value does not inherit.
_RECOMPUTE_META = ("recompute", "ac_graph_id")


class SliceNodes:
    """Makes the nodes of a graph that is being cut.

    Args:
        graph: The graph into which they are inserted.
        chunks: The extents of the slices.
        columns: Whether columns of products are cut, whose parts may belong to a slice of rows.
    """

    def __init__(self, graph: fx.Graph, chunks: Chunks, columns: bool) -> None:
        self.graph = graph
        self.chunks = chunks
        self.columns = columns
        self.fake_mode = _compat.fake_mode_of(graph)
        self.sizes = SizeNodes(graph, chunks, self._fill_meta)

    def whole_call(
        self, like: fx.Node, target: Any, args: tuple[Any, ...], value: Any = None
    ) -> fx.Node:
        """Insert a call that belongs to no slice; see ``call``."""
        node = self.call(like, target, args, {}, None, value)
        for key in _RECOMPUTE_META:
            node.meta.pop(key, None)
        return node

    def call(
        self,
        like: fx.Node,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        index: int | None,
        value: Any = None,
    ) -> fx.Node:
        """Insert a call at the graph's insertion point. A view copies its operand if necessary.

        Args:
            like: The node that the call stands for.
            target: The function to call.
            args: The positional arguments, which may hold size expressions.
            kwargs: The keyword arguments, which may hold size expressions.
            index: The slice that the call belongs to; ``None`` for no slice.
            value: The fake value, if it is known without running the call.
        """
        args = fx.node.map_aggregate(args, self.sizes.node_or_int)
        kwargs = fx.node.map_aggregate(kwargs, self.sizes.node_or_int)
        if target in STRICT_VIEWS and not self._viewable(args):
            args = (self.contiguous(like, args[0], index), *args[1:])
        name = None if index is None else f"{like.name}_{'c' if self.columns else 's'}{index}"
        node = self.graph.create_node("call_function", target, args, kwargs, name)
        inherit(node, like)
        self.tag(node, index, like.name)
        if value is None:
            self._fill_meta(node)
        else:
            node.meta["val"] = value
        return node

    def contiguous(self, like: fx.Node, value: fx.Node, index: int | None) -> fx.Node:
        """Insert a contiguous copy of a value."""
        how = {"memory_format": torch.contiguous_format}
        return self.call(like, aten.clone.default, (value,), how, index)

    def view(self, like: fx.Node, value: fx.Node, sizes: Any) -> fx.Node:
        """Insert a view that belongs to no slice."""
        return self.whole_call(like, aten.view.default, (value, list(sizes)))

    def permuted(self, like: fx.Node, value: fx.Node, order: list[int]) -> fx.Node:
        """Return a value with its dimensions in another order."""
        if order == sorted(order):
            return value
        return self.whole_call(like, aten.permute.default, (value, order))

    def take_apart(
        self, value: fx.Node, whole: fx.Node, dim: int, lengths: list[Size]
    ) -> list[fx.Node]:
        """Return the chunks of a dimension: slices, or a split if it is dynamic (slices clamp)."""
        if self.chunks.dynamic:
            split = self.whole_call(value, aten.split_with_sizes.default, (whole, lengths, dim))
            return [
                self.whole_call(value, operator.getitem, (split, i)) for i in range(len(lengths))
            ]
        ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
        return [
            self.whole_call(value, aten.slice.Tensor, (whole, dim, end - length, end))
            for end, length in zip(ends, lengths, strict=True)
        ]

    def tag(self, node: fx.Node, index: int | None, origin: str) -> None:
        """Tag a node with its slice; the parts of a column cut may belong to a slice of rows."""
        if self.columns:
            if index is not None:
                tag_column(node, index, origin)
        elif index is None:
            clear_tag(node)
        else:
            tag_slice(node, index, origin)

    def _viewable(self, args: tuple[Any, ...]) -> bool:
        """Return whether a view needs no copy, as slices of other dimensions than the first may."""
        value = args[0].meta["val"]
        return _compat.is_contiguous(value) or _compat.can_view(
            self.fake_mode, value, _vals(args[1])
        )

    def _fill_meta(self, node: fx.Node) -> None:
        run_fake(node, self.fake_mode)


def order_in_memory(value: torch.Tensor) -> list[int]:
    """Return the dimensions, outermost in memory first; unchanged if elements share memory."""
    dims = list(range(value.ndim))
    if _compat.is_contiguous(value):
        return dims
    sizes, strides = ([size_hint(n) for n in extents] for extents in (value.shape, value.stride()))
    if any(stride == 0 and size > 1 for size, stride in zip(sizes, strides, strict=True)):
        return dims
    return sorted(dims, key=lambda dim: -strides[dim])


def inverse(order: list[int]) -> list[int]:
    """Return the order of dimensions that undoes another."""
    return sorted(range(len(order)), key=order.__getitem__)


def _vals(sizes: Any) -> list[Any]:
    return [s.meta["val"] if isinstance(s, fx.Node) else s for s in sizes]
