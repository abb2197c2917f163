"""``regroup``: let ranks exchange the tokens that they hold where a program begins and ends.

With sequence parallelism, slices of one long sequence can only be made if each rank holds a part of
every slice (``analysis.dealt``). Where a program takes over tokens from outside, each rank has one
contiguous part of all instead. So the pass gathers these tokens, and each rank takes its part::

    v  ->  own_part(gather(v))

That changes no value, but what is gathered can be cut: each slice then takes its own part. Where a
rank's tokens leave the program, the same is done: the tokens are gathered as the slices hold them,
and each rank takes the part that it has to return.

Contract: The pass takes a functional joint or inference graph. Afterwards each shard is replaced by
this rank's part of what has been gathered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from domino_compile.analysis.dealt import GATHER
from domino_compile.analysis.shards import Shards
from domino_compile.graph.collectives import WAIT
from domino_compile.graph.new_nodes import new_node
from domino_compile.ops.own_part import own_part
from domino_compile.verify.claims import Whole, Witness

aten = torch.ops.aten


@dataclass(frozen=True)
class Exchange:
    """Tokens that ranks exchange.

    Attributes:
        shard: The value that holds this rank's tokens.
        gathered: The tokens of all ranks, in order.
        dim: The dimension of the tokens.
        nodes: The nodes that were added; the last one stands for the shard.
    """

    shard: fx.Node
    gathered: fx.Node
    dim: int
    nodes: tuple[fx.Node, ...]


@dataclass(frozen=True)
class Regrouped:
    """What the pass has done; falsy if nothing.

    Attributes:
        entries: The exchanges where the program begins.
        exits: The exchanges where it ends.
        witness: Which values after the pass stand for which before.
    """

    entries: tuple[Exchange, ...]
    exits: tuple[Exchange, ...]
    witness: Witness

    def __bool__(self) -> bool:
        return bool(self.entries)


def regroup_graph(graph: fx.Graph, shards: Shards) -> Regrouped:
    """Exchange tokens at all shards, in place."""
    entries = tuple(_exchange(graph, x, dim, shards, tuple(x.users)) for x, dim in shards.entries)
    exits = tuple(_exchange(graph, x, dim, shards, users) for x, dim, users in shards.exits)
    witness = Witness()
    for made in (*entries, *exits):
        witness.add(made.shard.name, Whole(made.shard.name))
        witness.add(made.shard.name, Whole(made.nodes[-1].name))
    return Regrouped(entries, exits, witness)


def undo(graph: fx.Graph, made: Regrouped) -> None:
    """Take all exchanges out again."""
    for exchange in (*made.entries, *made.exits):
        exchange.nodes[-1].replace_all_uses_with(exchange.shard)
        for node in reversed(exchange.nodes):
            graph.erase_node(node)


def _exchange(
    graph: fx.Graph, shard: fx.Node, dim: int, shards: Shards, users: Sequence[fx.Node]
) -> Exchange:
    chain = _Chain(graph, shard)
    gathered = chain.gather(dim, shards)
    own = chain.add(own_part, gathered, dim, shards.ranks, shards.group)
    for user in users:
        user.replace_input_with(shard, own)
    return Exchange(shard, gathered, dim, tuple(chain.nodes))


class _Chain:
    """Adds nodes for a value, each behind the one before."""

    def __init__(self, graph: fx.Graph, value: fx.Node) -> None:
        self.graph, self.value = graph, value
        self.nodes: list[fx.Node] = []
        inputs = list(graph.find_nodes(op="placeholder"))
        self.last = inputs[-1] if value.op == "placeholder" else value

    def add(self, target: Any, *args: Any) -> fx.Node:
        """Add a call."""
        with self.graph.inserting_after(self.last):
            self.last = new_node(self.graph, self.value, target, args)
        self.nodes.append(self.last)
        return self.last

    def gather(self, dim: int, shards: Shards) -> fx.Node:
        """Gather the tokens of all ranks, and put them in order."""
        whole = self.add(WAIT, self.add(GATHER, self.value, shards.ranks, shards.group))
        shape = [int(extent) for extent in self.value.meta["val"].shape]
        if dim:
            apart = self.add(aten.view.default, whole, [shards.ranks, *shape])
            order = [*range(1, dim + 1), 0, *range(dim + 1, len(shape) + 1)]
            moved = self.add(aten.permute.default, apart, order)
            shape[dim] *= shards.ranks
            whole = self.add(aten.reshape.default, moved, shape)
        return self.add(aten.alias.default, whole)
