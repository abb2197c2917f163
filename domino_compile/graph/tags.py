"""The marks that our passes leave on nodes: which slice, of which node, and that they are ours.

The first travels through partitioning, both through Inductor's own passes, because those copy node
metadata.
Read and written here only; every other result of an analysis is data, not a mark.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

_KEY = "domino_compile_slice"
_OVERLAPPED = "domino_compile_overlapped"


@dataclass(frozen=True)
class SliceTag:
    """Slice ``index`` of what was node ``origin`` of the uncut graph."""

    index: int
    origin: str


def tag_slice(node: fx.Node, index: int, origin: str) -> None:
    """Mark a node as belonging to a slice."""
    node.meta[_KEY] = SliceTag(index, origin)


def tag_column(node: fx.Node, index: int, origin: str) -> None:
    """Mark a node as part ``index`` of a column cut, within the slice it may belong to already.

    Parts of slice ``s`` are slices ``100 * (s + 1) + index``; of a whole value, ``index``.
    """
    row = slice_of(node)
    whole = origin_of(node) or origin
    tag_slice(node, index if row is None else 100 * (row + 1) + index, whole)


def clear_tag(node: fx.Node) -> None:
    """Mark a node as whole."""
    node.meta.pop(_KEY, None)


def slice_of(node: fx.Node) -> int | None:
    """The slice a node belongs to; ``None`` for a whole one."""
    tag = node.meta.get(_KEY)
    return tag.index if isinstance(tag, SliceTag) else None


def origin_of(node: fx.Node) -> str | None:
    """The node of the uncut graph it is a slice of."""
    tag = node.meta.get(_KEY)
    return tag.origin if isinstance(tag, SliceTag) else None


def mark_overlapped(graph: fx.Graph) -> None:
    """Mark a graph's nodes as of a program that was ordered to hide communication."""
    for node in graph.nodes:
        node.meta[_OVERLAPPED] = True


def is_overlapped(node: fx.Node) -> bool:
    """Whether it is of such a program."""
    return bool(node.meta.get(_OVERLAPPED, False))
