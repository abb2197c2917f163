"""The graphs inside a graph, which higher-order operations (attention, conditionals) call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx


def subgraph_of(node: fx.Node) -> fx.GraphModule | None:
    """Return the graph that a ``get_attr`` node names, or ``None`` for other nodes."""
    if node.op != "get_attr":
        return None
    value: Any = node.graph.owning_module
    for name in str(node.target).split("."):
        value = getattr(value, name, None)
    return value if isinstance(value, fx.GraphModule) else None


def value_of(node: fx.Node) -> Any:
    """Return the argument that a node stands for on fake tensors: its value, or its graph."""
    subgraph = subgraph_of(node)
    return node.meta["val"] if subgraph is None else subgraph


def copy_for(
    subgraph: fx.GraphModule, last: Sequence[Any]
) -> tuple[fx.GraphModule, dict[fx.Node, fx.Node]]:
    """Copy a graph for other values of its last inputs; return the copy, and each node's copy.

    Inductor requires the inputs of a graph to have the shapes of its arguments.

    Args:
        subgraph: The graph to copy.
        last: The fake values of its last inputs; ``None`` for inputs that keep their value.
    """
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    output = graph.output(graph.graph_copy(subgraph.graph, env))
    env[subgraph.graph.output_node()] = output
    for node, copied_node in env.items():
        copied_node.meta = dict(node.meta)
    inputs = graph.find_nodes(op="placeholder")
    for node, value in zip(inputs[len(inputs) - len(last) :], last, strict=True):
        if value is not None:
            node.meta["val"] = value
    copied = fx.GraphModule(subgraph, graph)
    copied.meta = dict(subgraph.meta)
    return copied, env


def add_subgraph(graph: fx.Graph, like: fx.Node, subgraph: fx.GraphModule, mark: str) -> fx.Node:
    """Add a graph that was made from that of ``like``, and insert a node that names it."""
    owner = graph.owning_module
    assert owner is not None
    name = f"{like.target}_{mark}".replace(".", "_")
    while hasattr(owner, name):
        name += "_"
    owner.add_module(name, subgraph)
    node = graph.get_attr(name)
    node.meta = dict(like.meta)
    return node
