"""Saves a graph, to restore it if a pass fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from domino_compile import _compat

#: Nodes that our passes never replace.
KEPT = ("placeholder", "output")


@dataclass(frozen=True)
class SavedNode:
    """A saved node. Its arguments are nodes of the saved graph, which may be erased later."""

    node: fx.Node
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    name: str
    type: Any
    meta: dict[str, Any]


class Backup:
    """A saved copy of a graph, to restore it if a pass fails.

    The input nodes and the output node stay the same objects, because a lowering may hold on to
    them.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.nodes = [
            SavedNode(n, n.target, n.args, n.kwargs, n.name, n.type, dict(n.meta))
            for n in graph.nodes
        ]

    def restore(self, graph: fx.Graph) -> None:
        """Restore the nodes, with their order, names and metadata."""
        output = graph.output_node()
        for node in graph.nodes:
            node.args, node.kwargs = (), {}
        for node in reversed(list(graph.nodes)):
            if node.op not in KEPT:
                graph.erase_node(node)
        _compat.forget_names(graph)
        restored: dict[fx.Node, fx.Node] = {}
        with graph.inserting_before(output):
            for saved in self.nodes:
                args, kwargs = fx.node.map_arg((saved.args, saved.kwargs), lambda x: restored[x])
                node = saved.node
                if node.op in KEPT:
                    node.args, node.kwargs = args, kwargs
                    if node is not output:
                        output.prepend(node)  # moves it to its place among the others
                else:
                    node = graph.create_node(
                        node.op, saved.target, args, kwargs, saved.name, saved.type
                    )
                node.meta = dict(saved.meta)
                restored[saved.node] = node
