"""Properties of a node that follow from the node alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import fx

from domino_compile._compat.operators import HigherOrderOperator, OpOverload
from domino_compile.graph.collectives import is_wait

aten = torch.ops.aten

#: Operations that give the same elements another shape.
VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)


def is_free(node: fx.Node) -> bool:
    """Return whether the node costs nothing: views, tuple members, sizes."""
    return node.op != "call_function" or (is_free_operation(node.target) and not is_wait(node))


@cache
def is_free_operation(target: Any) -> bool:
    """Return whether an operation costs nothing, by its schema. A wait has such a schema too."""
    if not isinstance(target, OpOverload):
        return not isinstance(target, HigherOrderOperator)
    if target in (aten._unsafe_view.default, aten.reshape.default, aten.sym_size.int):
        return True
    returns = target._schema.returns
    alias = returns[0].alias_info if returns else None
    return alias is not None and not alias.is_write


def behind_views(value: Any) -> fx.Node | None:
    """Return the value behind views (``VIEWS``), if nothing else needs it or those views."""
    while isinstance(value, fx.Node) and len(value.users) == 1:
        if value.target not in VIEWS:
            return value
        value = value.args[0]
    return None


def computed_behind(node: fx.Node) -> fx.Node:
    """Return the node behind views, tuple members and the like: a computed value, or an input."""
    while node.op == "call_function" and is_free(node):
        node = node.all_input_nodes[0]
    return node


def is_returned(node: fx.Node) -> bool:
    """Return whether the graph returns a value, or a view of it."""
    return any(user.op == "output" for user in users_of(node))


def users_of(node: fx.Node) -> Iterator[fx.Node]:
    """Return the users of a value, directly or through views, including the graph's output."""
    for user in node.users:
        if user.op != "output" and is_free(user):
            yield from users_of(user)
        else:
            yield user
