"""Value numbering: which operations of a graph compute the same value as an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

from torch import fx


def value_numbers(
    nodes: Iterable[fx.Node], apart: Callable[[fx.Node], Hashable] = lambda node: None
) -> dict[fx.Node, fx.Node]:
    """Return the first node that computes the value of each node, often the node itself.

    Args:
        nodes: Nodes of one graph, in its order, whose values follow from their target and
            arguments: no random numbers, and nothing that is written to later.
        apart: Tells values apart that are computed by the same operation. Only nodes for which it
            is equal are equal.
    """
    first: dict[Hashable, fx.Node] = {}
    same: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        args = fx.map_arg((node.args, tuple(node.kwargs.items())), lambda x: same.get(x, x))
        same[node] = first.setdefault((apart(node), node.target, repr(args)), node)
    return same
