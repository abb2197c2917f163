"""A joint graph as it will be partitioned: with what backward recomputes spelled out.

Checkpointed regions are only marked in a joint graph. The partitioner keeps what is not marked for
recomputation, and what one region gives to the next; everything else that backward needs of a
region it computes again, collectives too. Planning needs both to be seen: the time of what runs
twice, and the memory of what is not kept. So it looks at a copy of the graph, in which backward has
nodes of its own for what it recomputes::

    joint        a = f(x)    b = g(a)    ...    da = h(db, a)
    unfolded     a = f(x)    b = g(a)    ...    a' = f(x)    da = h(db, a')

What the partitioner recomputes without being asked, because it is cheap, is left as it is (the cost
model knows of it in its own way: ``scheduling.traffic``).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from domino_compile.cost import CostModel
from domino_compile.graph.collectives import backward_nodes
from domino_compile.graph.tags import Piece, origin_of, piece_of, tag_piece
from domino_compile.scheduling import UnitGraph, build_units

RECOMPUTED = (CheckpointPolicy.MUST_RECOMPUTE, CheckpointPolicy.PREFER_RECOMPUTE)


@dataclass
class Unfolded:
    """A joint (or inference) graph with what backward recomputes.

    Attributes:
        graph: the graph to plan with; the captured one itself where nothing is recomputed.
        gradients: its nodes that depend on a gradient of an output.
        copies: for each node that backward recomputes the one of forward, in the captured graph.
        kept: for each node of the captured graph the same node of ``graph``.
    """

    graph: fx.Graph
    gradients: set[fx.Node]
    copies: Mapping[fx.Node, fx.Node] = field(default_factory=dict)
    kept: Mapping[fx.Node, fx.Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._origins = {new: old for old, new in self.kept.items()} | dict(self.copies)
        self._copy_of = {old: new for new, old in self.copies.items()}

    def units(
        self, cost: CostModel, kind: Callable[[fx.Node], Hashable] | None = None
    ) -> UnitGraph:
        """The units of the graph, with those marked that backward recomputes.

        Args:
            cost: predicts times.
            kind: nodes of different kinds are never fused; by default forward and backward.
        """
        found = build_units(self.graph, cost, kind or self.is_backward)
        for unit in found.units:
            unit.recomputed = all(node in self.copies for node in unit.nodes) and all(
                found.units[i].recomputed or not self.is_backward(found.units[i].nodes[0])
                for i in unit.after
            )
        return found

    def is_backward(self, node: fx.Node) -> bool:
        """Whether a node runs in backward."""
        return node in self.gradients or node in self.copies

    def origin(self, node: fx.Node) -> fx.Node:
        """The node of the captured graph that a node is."""
        return self._origins.get(node, node)

    def edges(self, value: fx.Node, user: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
        """Where a node of the captured graph uses a value there: each such edge of ``graph``."""
        users = [self.kept.get(user, user)]
        if user in self._copy_of:
            users.append(self._copy_of[user])
        return [(x, u) for u in users for x in u.all_input_nodes if self.origin(x) is value]


def unfold(graph: fx.Graph) -> Unfolded:
    """Spell out what backward recomputes; the graph itself is left as it is."""
    gradients = backward_nodes(graph)
    recomputed = _recomputed(graph, gradients)
    if not recomputed:
        return Unfolded(graph, gradients)
    new = fx.Graph()
    kept: dict[fx.Node, fx.Node] = {}
    copy_of: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        late = node in gradients and node.op != "output"  # forward's results are forward's own
        if late:
            _copy_needed(new, node.all_input_nodes, recomputed, kept, copy_of)
        made_of = partial(_made_of, kept, copy_of if late else {})
        kept[node] = new.node_copy(node, made_of)
    copies = {made: old for old, made in copy_of.items()}
    return Unfolded(new, {kept[node] for node in gradients}, copies, kept)


def _made_of(
    kept: Mapping[fx.Node, fx.Node], copy_of: Mapping[fx.Node, fx.Node], node: fx.Node
) -> fx.Node:
    """What stands for a node: the copy that backward recomputes, if there is one."""
    return copy_of[node] if node in copy_of else kept[node]


def _copy_needed(
    new: fx.Graph,
    wanted: Sequence[fx.Node],
    recomputed: set[fx.Node],
    kept: Mapping[fx.Node, fx.Node],
    copy_of: dict[fx.Node, fx.Node],
) -> None:
    """Recompute, right where it is needed, what is needed and has not been recomputed yet."""
    waiting, needed = list(wanted), set[fx.Node]()
    while waiting:
        node = waiting.pop()
        if node in recomputed and node not in copy_of and node not in needed:
            needed.add(node)
            waiting.extend(node.all_input_nodes)
    for node in sorted(needed):
        made = new.node_copy(node, lambda x: copy_of.get(x, kept[x]))
        tag_piece(made, piece_of(node) or Piece(), origin_of(node) or node.name)
        copy_of[node] = made


def _recomputed(graph: fx.Graph, gradients: set[fx.Node]) -> set[fx.Node]:
    """The nodes of forward that are not kept for backward."""
    return {
        node
        for node in graph.nodes
        if node not in gradients and _is_marked(node) and not _leaves_region(node, node.users)
    }


def _is_marked(node: fx.Node) -> bool:
    return node.meta.get("recompute") in RECOMPUTED


def _leaves_region(node: fx.Node, users: Iterable[fx.Node]) -> bool:
    """Whether a later region uses the value: the partitioner keeps what is between two regions."""
    region = node.meta.get("ac_graph_id", 0)
    return any(_is_marked(u) and u.meta.get("ac_graph_id", 0) > region for u in users)
