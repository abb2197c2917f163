"""Creates nodes with metadata for passes, and erases nodes that become unused."""

from __future__ import annotations

from typing import Any

from torch import fx

from domino_compile import _compat
from domino_compile.axes import Size
from domino_compile.graph.collectives import is_wait
from domino_compile.graph.nodes import VIEWS
from domino_compile.graph.subgraphs import value_of

#: Metadata about a node's value or the treatment of its inputs, which another node must not have.
_NOT_INHERITED = ("val", "tensor_meta", "eager_input_vals")


def inherit(node: fx.Node, like: fx.Node) -> None:
    """Copy a node's origin (user's line, module, recompute tags), but not its value."""
    node.meta = {key: value for key, value in like.meta.items() if key not in _NOT_INHERITED}


def run_fake(node: fx.Node, fake_mode: Any = None) -> None:
    """Compute a node's ``val`` by running it on fake tensors."""
    target: Any = node.target
    args = fx.node.map_arg(node.args, value_of)
    kwargs = fx.node.map_arg(node.kwargs, value_of)
    with fake_mode or _compat.fake_mode_of(node.graph):
        node.meta["val"] = target(*args, **kwargs)


def new_node(graph: fx.Graph, like: fx.Node, target: Any, args: tuple[Any, ...]) -> fx.Node:
    """Insert a call with its value, and with the origin of another node."""
    node = graph.call_function(target, args)
    inherit(node, like)
    run_fake(node)
    return node


def erase_unused(graph: fx.Graph, node: Any) -> None:
    """Erase an unused value, and the values that it is a view or the wait of.

    Dead-code removal keeps waits.
    """
    while isinstance(node, fx.Node) and not node.users:
        source = node.args[0] if node.target in VIEWS or is_wait(node) else None
        graph.erase_node(node)
        node = source


def with_size(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    argument: int | str,
    entry: int | None,
    size: Size,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments with one size replaced."""
    positional = list(args)
    store: Any = positional if isinstance(argument, int) else kwargs
    if entry is None:
        store[argument] = size
    else:
        sizes = list(store[argument])
        sizes[entry] = size
        store[argument] = sizes
    return tuple(positional), kwargs
