"""Sequence parallelism: the values with which a program takes over, or returns, a rank's tokens.

A program may begin with a rank's part of the tokens (an input, or its part of a value that all
ranks have) and end with one (a result, or an input's gradient). Which tokens a rank holds there is
given. ``dealt`` can only deal tokens differently between the two, so they have to be found:
``passes.regroup`` exchanges tokens at each of them.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import fx

from domino_compile import _compat
from domino_compile.analysis.dealt import GATHER, SPLITS
from domino_compile.analysis.infer import MAX_CANDIDATES, extended
from domino_compile.analysis.propagate import Analysis, propagate
from domino_compile.axes import Sliced
from domino_compile.graph.collectives import group_of, is_tangent

aten = torch.ops.aten


@dataclass(frozen=True)
class Shards:
    """Where a program takes over and returns one rank's tokens.

    Attributes:
        ranks: The number of ranks.
        group: The name of their process group.
        entries: The values that hold tokens from outside, with the dimension of the tokens.
        exits: The values that are returned, or needed as the ranks hold them, with the dimension of
            the tokens and the users.
    """

    ranks: int
    group: str
    entries: tuple[tuple[fx.Node, int], ...]
    exits: tuple[tuple[fx.Node, int, tuple[fx.Node, ...]], ...]


def find_shards(graph: fx.Graph, parameters: frozenset[fx.Node]) -> Shards | None:
    """Return the shards of a graph whose ranks divide tokens among them; ``None`` if there is none.

    Args:
        graph: A functional joint or inference graph.
        parameters: The inputs that are known to be parameters.
    """
    if not any(node.target is GATHER for node in graph.nodes):
        return None
    for node in islice(_candidates(graph, parameters), MAX_CANDIDATES):
        for dim, extent in enumerate(node.meta["val"].shape[:2]):
            if not isinstance(extent, int) or extent < 2:
                continue
            analysis = propagate(graph, extent, {node: Sliced(dim)})
            if (gather := _gathered(analysis)) is not None:
                return _shards(graph, extended(graph, analysis), gather, extent)
    return None


def _candidates(graph: fx.Graph, parameters: frozenset[fx.Node]) -> Iterator[fx.Node]:
    """Yield values that may be a rank's part of the tokens, the likeliest first."""
    yield from filter(_is_own_piece, graph.nodes)
    for node in graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.ndim < 2:
            continue
        if node not in parameters and not is_tangent(node):
            yield node


def _is_own_piece(node: fx.Node) -> bool:
    """Return whether a value is the only piece that is used of a split."""
    if node.target is not operator.getitem:
        return False
    split = node.args[0]
    return isinstance(split, fx.Node) and split.target in SPLITS and len(split.users) == 1


def _gathered(analysis: Analysis) -> fx.Node | None:
    """Return the first all-gather of tokens that a rank holds."""
    for node, cut in analysis.cuts.items():
        if node.target is GATHER:
            (state,) = cut.inputs
            if isinstance(state, Sliced) and state.outer == 1:
                return node
    return None


def _shards(graph: fx.Graph, local: Analysis, gather: fx.Node, extent: int) -> Shards | None:
    ranks, group = int(gather.args[1]), group_of(gather)  # type: ignore[arg-type]
    entries = [
        (node, state.dim)
        for node, state in local.seeds.items()
        if node.op == "placeholder" and state.outer == 1 and _length(node, state.dim) == extent
    ]
    pieces = (node for node in graph.nodes if _is_own_piece(node))
    for node in pieces:
        dim = _dim_of(node)
        if _length(node, dim) == extent and _is_taken(node, ranks, group):
            entries.append((node, dim))
    exits: dict[tuple[fx.Node, int], list[fx.Node]] = {}
    for value, user in local.joins:
        state = local.state(value)
        if not isinstance(state, Sliced) or value.op == "placeholder":
            continue
        if state.outer == 1 and _length(value, state.dim) == extent:
            exits.setdefault((value, state.dim), []).append(user)
        elif user.op == "output":
            return None  # it returns tokens of all ranks in the order of the uncut program
    if not all(_is_static(node) for node, _ in (*entries, *exits)):
        return None
    return Shards(
        *(ranks, group, tuple(entries)),
        tuple((value, dim, tuple(users)) for (value, dim), users in exits.items()),
    )


def _is_static(node: fx.Node) -> bool:
    return all(isinstance(extent, int) for extent in node.meta["val"].shape)


def _length(node: fx.Node, dim: int) -> int:
    return int(node.meta["val"].shape[dim])


def _dim_of(piece: fx.Node) -> int:
    """Return the dimension that the split of a piece is along."""
    split = piece.all_input_nodes[0]
    dim: Any = split.args[2] if len(split.args) > 2 else split.kwargs.get("dim", 0)
    return int(dim) % int(piece.meta["val"].ndim)


def _is_taken(node: fx.Node, ranks: int, group: str) -> bool:
    """Return whether a piece of a split is this rank's."""
    split, index = node.args
    assert isinstance(split, fx.Node)
    return bool(len(split.meta["val"]) == ranks and index == _compat.rank_in(group))
