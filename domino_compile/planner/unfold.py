"""A joint graph as it will be partitioned: with backward's recomputation made explicit.

A joint graph only marks checkpointed regions. The partitioner keeps the values that are not marked
for recomputation, and those that one region passes to the next; it recomputes everything else that
backward needs from a region, including collectives. Planning has to see both: the time of the work
that runs twice, and the memory that is not kept. So it uses a copy of the graph in which backward
has separate nodes for everything it recomputes::

    joint        a = f(x)    b = g(a)    ...    da = h(db, a)
    unfolded     a = f(x)    b = g(a)    ...    a' = f(x)    da = h(db, a')

Values that the partitioner recomputes unasked, because they are cheap, are not copied: the cost
model accounts for them separately (``scheduling.traffic``).

Where the pass ``relayout`` will run, the copy also has what it leaves of changes of the order of
tokens: views. (With several rows in a slice attention still needs row order, so copies of queries,
keys and values stay. They are far smaller than the activations that are not copied any more.)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from domino_compile.analysis.token_order import removable
from domino_compile.cost import CostModel
from domino_compile.graph.collectives import backward_nodes
from domino_compile.graph.nodes import is_free, is_returned
from domino_compile.graph.tags import Piece, origin_of, piece_of, tag_piece
from domino_compile.scheduling import UnitGraph, build_units
from domino_compile.scheduling.kinds import draws, is_pointwise

aten = torch.ops.aten

RECOMPUTED = (CheckpointPolicy.MUST_RECOMPUTE, CheckpointPolicy.PREFER_RECOMPUTE)


@dataclass
class Unfolded:
    """A joint (or inference) graph with backward's recomputation as separate nodes.

    Attributes:
        graph: The graph to plan with; the captured graph itself if nothing is recomputed.
        gradients: The nodes of ``graph`` that depend on a gradient of an output.
        copies: For each recomputed node, its original in the captured graph's forward.
        kept: For each node of the captured graph, the same node in ``graph``.
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
        """Return the units of the graph, with recomputed units marked.

        Args:
            cost: The model that predicts times.
            kind: Nodes of different kinds are never fused; by default forward and backward.
        """
        units = build_units(self.graph, cost, kind or self.is_backward)
        for unit in units.units:
            unit.recomputed = all(node in self.copies for node in unit.nodes) and all(
                units.units[i].recomputed or not self.is_backward(units.units[i].nodes[0])
                for i in unit.after
            )
        return units

    def is_backward(self, node: fx.Node) -> bool:
        """Return whether a node runs in backward."""
        return node in self.gradients or node in self.copies

    def origin(self, node: fx.Node) -> fx.Node:
        """Return the node of the captured graph that a node stands for."""
        return self._origins.get(node, node)

    def edges(self, value: fx.Node, user: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
        """Return the edges of ``graph`` that stand for ``user`` using ``value`` when captured."""
        users = [self.kept.get(user, user)]
        if user in self._copy_of:
            users.append(self._copy_of[user])
        return [(x, u) for u in users for x in u.all_input_nodes if self.origin(x) is value]


def unfold(graph: fx.Graph, relaid: bool = False) -> Unfolded:
    """Make backward's recomputation explicit in a copy; the graph itself is not changed.

    Args:
        graph: A joint or inference graph.
        relaid: Whether ``relayout`` will run on it, or on its slices.
    """
    gradients = backward_nodes(graph)
    recomputed = _recomputed(graph, gradients)
    sources = _sources_in_order(graph) if relaid else {}
    if not recomputed and not sources:
        return Unfolded(graph, gradients)
    new = fx.Graph()
    kept: dict[fx.Node, fx.Node] = {}
    copy_of: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        late = node in gradients and node.op != "output"  # forward's results are forward's own
        if late:
            _copy_needed(new, node.all_input_nodes, recomputed, sources, kept, copy_of)
        made_of = partial(_made_of, kept, copy_of if late else {})
        kept[node] = _copy(new, node, made_of, sources)
    copies = {made: old for old, made in copy_of.items()}
    return Unfolded(new, {kept[node] for node in gradients}, copies, kept)


def _sources_in_order(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Return the changes of the order of tokens that ``relayout`` removes, and what each takes."""
    found = ((node, removable(node)) for node in graph.nodes)
    return {node: moved.source for node, moved in found if moved is not None}


def _copy(
    new: fx.Graph,
    node: fx.Node,
    made_of: Callable[[fx.Node], fx.Node],
    sources: Mapping[fx.Node, fx.Node],
) -> fx.Node:
    """Copy a node, or put a view in the place of a change of the order of tokens."""
    if node not in sources:
        return new.node_copy(node, made_of)
    shape = list(node.meta["val"].shape)
    view = new.call_function(aten.reshape.default, (made_of(sources[node]), shape))
    view.meta = dict(node.meta)
    return view


def _made_of(
    kept: Mapping[fx.Node, fx.Node], copy_of: Mapping[fx.Node, fx.Node], node: fx.Node
) -> fx.Node:
    """Return the copy that backward recomputes for a node if there is one, otherwise the node."""
    return copy_of[node] if node in copy_of else kept[node]


def _copy_needed(
    new: fx.Graph,
    wanted: Sequence[fx.Node],
    recomputed: set[fx.Node],
    sources: Mapping[fx.Node, fx.Node],
    kept: Mapping[fx.Node, fx.Node],
    copy_of: dict[fx.Node, fx.Node],
) -> None:
    """Copy the inputs that a node needs and that have not been recomputed yet in front of it."""
    waiting, needed = list(wanted), set[fx.Node]()
    while waiting:
        node = waiting.pop()
        if node in recomputed and node not in copy_of and node not in needed:
            needed.add(node)
            waiting.extend(node.all_input_nodes)
    for node in sorted(needed):
        made = _copy(new, node, lambda x: copy_of.get(x, kept[x]), sources)
        tag_piece(made, piece_of(node) or Piece(), origin_of(node) or node.name)
        copy_of[node] = made


def _recomputed(graph: fx.Graph, gradients: set[fx.Node]) -> set[fx.Node]:
    """Return the nodes of forward that are not kept for backward.

    What is cheap to compute from these, such as a float32 copy of the last region's result for the
    norm behind it, is not kept either: the partitioner counts the bytes that it would keep, and not
    what the region's products and collectives take to be recomputed.
    """
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node in gradients or node.op != "call_function":
            continue
        if _is_marked(node):
            lost = not _leaves_region(node, node.users)
        else:
            cheap = is_free(node) or (is_pointwise(node) and not draws(node))
            lost = cheap and not is_returned(node) and not found.isdisjoint(node.all_input_nodes)
        if lost:
            found.add(node)
    return found


def _is_marked(node: fx.Node) -> bool:
    return node.meta.get("recompute") in RECOMPUTED


def _leaves_region(node: fx.Node, users: Iterable[fx.Node]) -> bool:
    """Return whether a later region uses the value: the partitioner keeps such values."""
    region = node.meta.get("ac_graph_id", 0)
    return any(_is_marked(u) and u.meta.get("ac_graph_id", 0) > region for u in users)
