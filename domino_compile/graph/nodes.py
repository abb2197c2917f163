"""What a node of a graph does, as far as it can be told from the node alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import fx

from domino_compile.graph.collectives import is_launch, is_wait
from domino_compile.rules.registry import rule_of

aten = torch.ops.aten

#: Families of operations that compute nothing out of what is a result already.
FINISHING = ("pointwise", "cat", "slice_scatter", "select_scatter", "pad")
#: Operations that give the same elements another shape.
VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)


def is_free(node: fx.Node) -> bool:
    """Whether the node costs nothing: views, tuple members, sizes."""
    return node.op != "call_function" or (_is_free_operation(node.target) and not is_wait(node))


@cache
def _is_free_operation(target: Any) -> bool:
    if not isinstance(target, torch._ops.OpOverload):
        return not isinstance(target, torch._ops.HigherOrderOperator)
    if target in (aten._unsafe_view.default, aten.reshape.default, aten.sym_size.int):
        return True
    returns = target._schema.returns
    alias = returns[0].alias_info if returns else None
    return alias is not None and not alias.is_write


def behind_views(value: Any) -> fx.Node | None:
    """What a value is, or is a view of (``VIEWS``), if nothing else needs it or a view between."""
    while isinstance(value, fx.Node) and len(value.users) == 1:
        if value.target not in VIEWS:
            return value
        value = value.args[0]
    return None


def users_of(node: fx.Node) -> Iterator[fx.Node]:
    """Those that use a value, itself or through views; the graph's output is one of them."""
    for user in node.users:
        if user.op != "output" and is_free(user):
            yield from users_of(user)
        else:
            yield user


def leading_to_computation(graph: fx.Graph) -> set[fx.Node]:
    """The nodes on whose value a computation depends.

    Views, pointwise operations, pieces put together or into zeros, and collectives are none: what
    has nothing else behind it only finishes a result, as the division of a gradient by the number
    of ranks does, or putting together the gradients of a parameter's parts.
    """
    leading: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node in leading or _computes(node):
            leading.update(node.all_input_nodes)
    return leading


def _computes(node: fx.Node) -> bool:
    if node.op != "call_function" or is_free(node) or is_launch(node) or is_wait(node):
        return False
    rule = rule_of(node.target)
    return rule is None or rule.family not in FINISHING
