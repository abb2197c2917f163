"""The tags that our passes put on nodes, such as the slice and the uncut node.

The tags of pieces and collectives survive partitioning, and all tags survive Inductor's own passes,
because those copy node metadata. Tags are only read and written here; every other result of an
analysis is data, not a tag.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

_KEY = "domino_compile_slice"
_OVERLAPPED = "domino_compile_overlapped"
_ALONE = "domino_compile_alone"
_IN_ORDER = "domino_compile_in_order"
_REGION = "domino_compile_region"
_EXCHANGED = "domino_compile_exchanged"


@dataclass(frozen=True, order=True)
class Piece:
    """The position of a value in an uncut value: its slice of the rows, its part of the columns.

    Attributes:
        row: The slice of the rows; -1 if rows are not cut.
        column: The part of the columns; -1 if columns are not cut.
    """

    row: int = -1
    column: int = -1

    @property
    def slice(self) -> int | None:
        """The slice of the rows; ``None`` if rows are not cut."""
        return self.row if self.row >= 0 else None

    @property
    def part(self) -> int | None:
        """The part of the columns; ``None`` if columns are not cut."""
        return self.column if self.column >= 0 else None

    def __str__(self) -> str:
        row, column = f"s{self.row}" * (self.row >= 0), f"c{self.column}" * (self.column >= 0)
        return row + column


@dataclass(frozen=True)
class SliceTag:
    """The tag of a piece of node ``origin`` of the uncut graph."""

    piece: Piece
    origin: str


def tag_piece(node: fx.Node, piece: Piece, origin: str) -> None:
    """Mark a node as a piece of an uncut node."""
    node.meta[_KEY] = SliceTag(piece, origin)


def tag_slice(node: fx.Node, index: int, origin: str) -> None:
    """Mark a node as belonging to a slice of the rows."""
    tag_piece(node, Piece(row=index), origin)


def tag_column(node: fx.Node, index: int, origin: str) -> None:
    """Mark a node as a part of a column cut, within the slice that it may belong to already."""
    row = piece.row if (piece := piece_of(node)) is not None else -1
    tag_piece(node, Piece(row, index), origin_of(node) or origin)


def clear_tag(node: fx.Node) -> None:
    """Mark a node as whole."""
    node.meta.pop(_KEY, None)


def piece_of(node: fx.Node) -> Piece | None:
    """Return the piece that a node is; ``None`` for a whole value."""
    tag = node.meta.get(_KEY)
    return tag.piece if isinstance(tag, SliceTag) else None


def origin_of(node: fx.Node) -> str | None:
    """Return the node of the uncut graph that a piece belongs to."""
    tag = node.meta.get(_KEY)
    return tag.origin if isinstance(tag, SliceTag) else None


def mark_overlapped(graph: fx.Graph) -> None:
    """Mark a graph's nodes as part of a program that is ordered to hide communication."""
    for node in graph.nodes:
        node.meta[_OVERLAPPED] = True


def is_overlapped(node: fx.Node) -> bool:
    """Return whether the node is part of a program that is ordered to hide communication."""
    return bool(node.meta.get(_OVERLAPPED, False))


def mark_alone(node: fx.Node) -> None:
    """Mark a collective as not tensor parallel: it is not cut or merged, and keeps its order."""
    node.meta[_ALONE] = True
    mark_in_order(node)


def is_alone(node: fx.Node) -> bool:
    """Return whether the collective is marked as not tensor parallel."""
    return bool(node.meta.get(_ALONE, False))


def mark_in_order(node: fx.Node) -> None:
    """Mark a collective as one that keeps its original order."""
    node.meta[_IN_ORDER] = True


def is_in_order(node: fx.Node) -> bool:
    """Return whether the collective keeps its original order."""
    return bool(node.meta.get(_IN_ORDER, False))


def mark_region(node: fx.Node, number: int) -> None:
    """Mark a collective as one of a joint graph that has been planned, by its number."""
    node.meta[_REGION] = number


def region_of(node: fx.Node) -> int | None:
    """Return the number of the planned joint graph that a collective is part of."""
    number = node.meta.get(_REGION)
    return number if isinstance(number, int) else None


def mark_exchanged(node: fx.Node) -> None:
    """Mark a gather of which each rank takes a part: it will become an all-to-all."""
    node.meta[_EXCHANGED] = True


def clear_exchanged(node: fx.Node) -> None:
    """Mark a gather as one that stays."""
    node.meta.pop(_EXCHANGED, None)


def is_exchanged(node: fx.Node) -> bool:
    """Return whether a gather will become an all-to-all."""
    return bool(node.meta.get(_EXCHANGED, False))
