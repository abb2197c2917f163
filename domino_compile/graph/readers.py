"""Who reads the memory of a value, and until when."""

from __future__ import annotations

import torch
from torch import fx

from domino_compile._compat.operators import OpOverload
from domino_compile.graph.collectives import is_launch
from domino_compile.graph.nodes import is_free

aten = torch.ops.aten

#: Operations whose result Inductor may lower to their argument's own memory.
MAYBE_SAME = (
    aten.clone.default,
    aten._to_copy.default,
    aten.constant_pad_nd.default,
    torch.ops.prims.convert_element_type.default,
)


def readers(value: fx.Node) -> list[fx.Node] | None:
    """Return all nodes that read a value's memory, itself or through views.

    Returns:
        The readers, views included. ``None`` if the memory may be needed after the last of them:
        the graph returns it, a collective reads it, or an operation writes it or is not known.
    """
    found: dict[fx.Node, None] = {}
    stack = [value]
    while stack:
        for user in stack.pop().users:
            if user in found:
                continue
            if user.op != "call_function" or is_launch(user) or not only_reads(user):
                return None
            found[user] = None
            if is_free(user) or user.target in MAYBE_SAME:
                stack.append(user)
    return list(found)


def only_reads(node: fx.Node) -> bool:
    """Return whether a node is known to write none of its arguments."""
    if not isinstance(node.target, OpOverload):
        return is_free(node)
    return not any(
        argument.alias_info is not None and argument.alias_info.is_write
        for argument in node.target._schema.arguments
    )
