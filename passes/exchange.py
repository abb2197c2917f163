"""``exchange``: send each token to its new rank only, instead of gathering all tokens on all ranks.

``regroup`` lets ranks exchange tokens by gathering them, which suits any cut. Once the graph is
cut, it is known which tokens each rank needs. An all-to-all then moves a rank's own tokens instead
of those of all ranks::

    v -> gather -> slice i -> own_part          becomes    v -> all-to-all -> slice i
    v_i -> gather -> cat -> own_part            becomes    v_i -> cat -> all-to-all -> v

Contract: The pass takes the graph that ``slice`` leaves, and the exchanges that ``regroup`` made in
it. An exchange whose tokens the cut leaves where they are keeps its gather.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from domino_compile.graph.collectives import WAIT
from domino_compile.graph.new_nodes import new_node
from domino_compile.graph.tags import clear_exchanged, clear_tag, origin_of, piece_of, tag_piece
from domino_compile.ops.tokens import all_to_all_tokens, arrange_tokens, is_arranged
from domino_compile.passes.regroup import Exchange, Regrouped
from domino_compile.verify.claims import Whole, Witness

aten = torch.ops.aten


@dataclass(frozen=True)
class Exchanged:
    """What the pass has done.

    Attributes:
        launches: The all-to-alls that it made.
        witness: Which values after the pass stand for which before.
    """

    launches: tuple[fx.Node, ...]
    witness: Witness

    def __bool__(self) -> bool:
        return bool(self.launches)


def exchange_tokens(graph: fx.Graph, made: Regrouped) -> Exchanged:
    """Replace the gathers of exchanges by all-to-alls, in place."""
    pieces = _pieces_by_origin(graph)
    witness, launches = Witness(), []
    for exchange in made.entries:
        owns = pieces.get(exchange.nodes[-1].name, [])
        if owns:
            launches.append(_enter(exchange, owns, witness))
    for exchange in made.exits:
        gathers = pieces.get(exchange.nodes[0].name, [])
        if gathers:
            launches.append(_leave(exchange, gathers, witness))
    for gather in (x.nodes[0] for x in (*made.entries, *made.exits)):
        clear_exchanged(gather)  # what is left of them gathers
    return Exchanged(tuple(launches), witness)


def _pieces_by_origin(graph: fx.Graph) -> Mapping[str, list[fx.Node]]:
    """Return the slices of each node that was cut, by its name, in order."""
    found: dict[str, dict[int, fx.Node]] = defaultdict(dict)
    for node in graph.nodes:
        piece, origin = piece_of(node), origin_of(node)
        if piece is not None and piece.slice is not None and origin is not None:
            found[origin][piece.slice] = node
    return {name: [nodes[i] for i in sorted(nodes)] for name, nodes in found.items()}


def _enter(exchange: Exchange, owns: Sequence[fx.Node], witness: Witness) -> fx.Node:
    """Let slices begin with the tokens that other ranks send; return the launch."""
    dim = exchange.dim
    lengths = [int(own.meta["val"].shape[dim]) for own in owns]
    chain = _Chain(exchange.nodes[0], exchange, lengths)
    value, launch = chain.exchanged(exchange.shard, back=False)
    start = 0
    for own, length in zip(owns, lengths, strict=True):
        taken = chain.add(aten.slice.Tensor, value, dim, start, start + length)
        piece, origin = piece_of(own), origin_of(own)
        assert piece is not None and origin is not None
        tag_piece(taken, piece, origin)
        witness.add(own.name, Whole(taken.name))
        own.replace_all_uses_with(taken)
        start += length
    _erase(owns)
    return launch


def _leave(exchange: Exchange, gathers: Sequence[fx.Node], witness: Witness) -> fx.Node:
    """Send slices' tokens to the ranks that return them; return the launch."""
    dim, own = exchange.dim, exchange.nodes[-1]
    values: list[Any] = [gather.args[0] for gather in gathers]
    lengths = [int(value.meta["val"].shape[dim]) for value in values]
    chain = _Chain(own, exchange, lengths)
    whole = chain.add(aten.cat.default, values, dim)
    value, launch = chain.exchanged(whole, back=True)
    witness.add(own.name, Whole(value.name))
    own.replace_all_uses_with(value)
    _erase([own])
    return launch


class _Chain:
    """Adds nodes in front of another, one behind the other."""

    def __init__(self, at: fx.Node, exchange: Exchange, lengths: Sequence[int]) -> None:
        ranks, group = exchange.nodes[-1].args[2:]
        self.at, self.like, self.dim = at, exchange.nodes[0], exchange.dim
        self.how: tuple[Any, ...] = (list(lengths), ranks, group)

    def add(self, target: Any, *args: Any) -> fx.Node:
        """Add a call."""
        graph = self.at.graph
        with graph.inserting_before(self.at):
            node = new_node(graph, self.like, target, args)
        clear_tag(node)
        clear_exchanged(node)
        return node

    def exchanged(self, value: fx.Node, back: bool) -> tuple[fx.Node, fx.Node]:
        """Exchange the tokens of a value with all ranks; return them in order, and the launch."""
        lengths, ranks, group = self.how
        how = (lengths, back, ranks, group)
        shape = [int(extent) for extent in value.meta["val"].shape]
        arranged = is_arranged(lengths, ranks)
        front = self._in_front(value, shape)
        if not arranged and not back:
            front = self.add(arrange_tokens, front, *how)
        launch = self.add(all_to_all_tokens, front, *how)
        there = self.add(WAIT, launch)
        if not arranged and back:
            there = self.add(arrange_tokens, there, *how)
        return self._as_before(there, shape), launch

    def _in_front(self, value: fx.Node, shape: list[int]) -> fx.Node:
        """Return a value with the tokens along dimension 0, contiguous."""
        before = math.prod(shape[: self.dim])
        if before > 1:
            apart = self.add(aten.reshape.default, value, [before, shape[self.dim], -1])
            value = self.add(aten.permute.default, apart, [1, 0, 2])
        return self.add(aten.reshape.default, value, [shape[self.dim], -1])

    def _as_before(self, value: fx.Node, shape: list[int]) -> fx.Node:
        """Return a value with the tokens along their own dimension again."""
        before = math.prod(shape[: self.dim])
        if before > 1:
            apart = self.add(aten.reshape.default, value, [shape[self.dim], before, -1])
            value = self.add(aten.permute.default, apart, [1, 0, 2])
        return self.add(aten.reshape.default, value, shape)


def _erase(unused: Sequence[fx.Node]) -> None:
    """Erase nodes, and everything that only they used, collectives and waits included."""
    waiting = list(unused)
    while waiting:
        node = waiting.pop()
        if node.users or node.op != "call_function" or node._erased:
            continue
        operands = list(node.all_input_nodes)
        node.graph.erase_node(node)
        waiting += operands
