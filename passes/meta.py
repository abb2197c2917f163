"""Metadata of the nodes that passes make."""

from __future__ import annotations

from typing import Any

from torch import fx

from domino_compile import _compat

#: What describes a node's own value or how it was to be treated, not where it comes from.
_OWN = ("val", "tensor_meta", "eager_input_vals")


def inherit(node: fx.Node, like: fx.Node) -> None:
    """Take over where a node comes from (user's line, module, recompute tags), not its value."""
    node.meta = {key: value for key, value in like.meta.items() if key not in _OWN}


def run_fake(node: fx.Node, fake_mode: Any = None) -> None:
    """Compute a node's ``val`` by running it on fake tensors."""
    target: Any = node.target
    args = fx.node.map_arg(node.args, lambda x: x.meta["val"])
    kwargs = fx.node.map_arg(node.kwargs, lambda x: x.meta["val"])
    with fake_mode or _compat.fake_mode_of(node.graph):
        node.meta["val"] = target(*args, **kwargs)


def new_node(graph: fx.Graph, like: fx.Node, target: Any, args: tuple[Any, ...]) -> fx.Node:
    """A call where the graph inserts, with its value, that comes from where another node does."""
    node = graph.call_function(target, args)
    inherit(node, like)
    run_fake(node)
    return node
