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
        graph: where they are inserted.
        chunks: the extents of the slices.
        columns: whether it is columns of products that are cut, which may be parts of a slice.
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
        """A call that belongs to no slice; see ``call``."""
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
        """A call where the graph inserts, copying the operand of a view that needs it.

        Args:
            like: the node it stands for.
            target: what is called.
            args: may hold size expressions, as ``kwargs`` may.
            kwargs: keyword arguments.
            index: the slice it belongs to; ``None``: to none.
            value: its fake value, where that is known without running it.
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
        """A copy without gaps."""
        how = {"memory_format": torch.contiguous_format}
        return self.call(like, aten.clone.default, (value,), how, index)

    def view(self, like: fx.Node, value: fx.Node, sizes: Any) -> fx.Node:
        """A view of a value that belongs to no slice."""
        return self.whole_call(like, aten.view.default, (value, list(sizes)))

    def permuted(self, like: fx.Node, value: fx.Node, order: list[int]) -> fx.Node:
        """The value with its dimensions in another order."""
        if order == sorted(order):
            return value
        return self.whole_call(like, aten.permute.default, (value, order))

    def take_apart(
        self, value: fx.Node, whole: fx.Node, dim: int, lengths: list[Size]
    ) -> list[fx.Node]:
        """The chunks of a dimension: slices; of a dynamic one a split (slices clamp their ends)."""
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
        """Mark what slice a node belongs to; a column cut may be one within a slice of rows."""
        if self.columns:
            if index is not None:
                tag_column(node, index, origin)
        elif index is None:
            clear_tag(node)
        else:
            tag_slice(node, index, origin)

    def _viewable(self, args: tuple[Any, ...]) -> bool:
        """Whether a view needs no copy (a slice of a dimension that is not the first may)."""
        value = args[0].meta["val"]
        return _compat.is_contiguous(value) or _compat.can_view(
            self.fake_mode, value, _vals(args[1])
        )

    def _fill_meta(self, node: fx.Node) -> None:
        run_fake(node, self.fake_mode)


def order_in_memory(value: torch.Tensor) -> list[int]:
    """The dimensions of a value, outermost in memory first; as they are if elements are shared."""
    dims = list(range(value.ndim))
    if _compat.is_contiguous(value):
        return dims
    sizes, strides = ([size_hint(n) for n in found] for found in (value.shape, value.stride()))
    if any(stride == 0 and size > 1 for size, stride in zip(sizes, strides, strict=True)):
        return dims
    return sorted(dims, key=lambda dim: -strides[dim])


def inverse(order: list[int]) -> list[int]:
    """The order of dimensions that undoes another."""
    return sorted(range(len(order)), key=order.__getitem__)


def _vals(sizes: Any) -> list[Any]:
    return [s.meta["val"] if isinstance(s, fx.Node) else s for s in sizes]
