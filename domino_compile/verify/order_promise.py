"""What the emitted code of a graph must do, read from the graph that is given to Inductor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from domino_compile import _compat
from domino_compile.verify import transported
from domino_compile.verify.order_certificate import Collective, Promise
from domino_compile.verify.plain import EXCHANGE

#: The operations that this is about, and the one among them that waits.
NAMESPACE, WAIT = "_c10d_functional", "wait_tensor"
#: The operation that calls a graph (a nested compile region).
CALL = "invoke_subgraph"
#: The operation that runs another one after what it depends on.
ORDERED = "control_deps"
#: Inputs that the caller holds all the time: parameters and the inputs of the step.
HELD = "primals"


def promise_of(graph: fx.Graph) -> Promise:
    """Return what the code of a graph must do, without a prediction of its memory.

    Args:
        graph: A graph in the order in which it is to run.
    """
    collectives = [node for node in _executed(graph) if _is_launch(_operation(node))]
    inputs = graph.find_nodes(op="placeholder")
    is_backward = any(str(node.target).startswith("tangents") for node in inputs)
    owned = [n for n in inputs if is_backward and not str(n.target).startswith(HELD)]
    return Promise(
        collectives=tuple(map(_collective, collectives)),
        input_bytes={str(node.target): _bytes(node.meta.get("val")) for node in owned},
    )


def _executed(graph: fx.Graph) -> Iterator[fx.Node]:
    """Yield a graph's nodes in order, and in place of a call of a graph the nodes of that graph."""
    for node in graph.nodes:
        if str(node.target) == CALL:
            called: Any = node.args[0]
            yield from _executed(getattr(graph.owning_module, str(called.target)).graph)
        else:
            yield node


def _is_launch(operation: str) -> bool:
    others = ("", WAIT, *transported.WAITS, *transported.RELEASES)
    return operation not in others


def _operation(node: fx.Node) -> str:
    """Return the name of a collective operation without the in-place suffix, or nothing.

    It may be one of the transport.

    A node that must run after another one is the only operation of a graph of its own.
    """
    target: Any = node.target
    if node.op != "call_function":
        return ""
    if str(target) == ORDERED:
        return next((name for n in _inside(node).nodes if (name := _operation(n))), "")
    if getattr(target, "namespace", "") != NAMESPACE and str(target) != EXCHANGE:
        return transported.command_of(str(target))
    return str(target._schema.name).split("::")[1].rstrip("_")


def _inside(node: fx.Node) -> fx.Graph:
    """Return the graph of an operation that must run after another one."""
    inside: Any = node.args[1]
    graph: fx.Graph = getattr(node.graph.owning_module, str(inside.target)).graph
    return graph


def _collective(node: fx.Node) -> Collective:
    if str(node.target) == ORDERED:
        inner = next(n for n in _inside(node).nodes if _operation(n))
        return replace(_collective(inner), name=node.name, waited=_is_waited(node))
    if (kind := _operation(node)) in transported.STARTS:
        return _start(node, kind)
    target: Any = node.target
    given = [*node.args[1:], *node.kwargs.values()]
    names = [argument.name for argument in target._schema.arguments]
    place = names.index("group_name")
    if place < len(node.args):
        given = [*node.args[1:place], *node.args[place + 1 :], *node.kwargs.values()]
        given.append(node.args[place])
    return Collective(node.name, _operation(node), tuple(map(_constant, given)), _is_waited(node))


def _start(node: fx.Node, kind: str) -> Collective:
    """Return a collective that the transport carries."""
    payload: Any = node.args[0]
    number, group = node.args[1:]
    ranks = _compat.group_size(str(group))
    slot = transported.slot_of(kind, number, str(group), _bytes(payload.meta["val"]), ranks)
    return Collective(node.name, kind, (number, str(group)), slot=slot)


def _constant(value: Any) -> object:
    """Return a constant argument as the code has it; ``None`` if it has a size in it."""
    if isinstance(value, (list, tuple)):
        members = tuple(map(_constant, value))
        return None if None in members else members
    return value if isinstance(value, (str, int, float, bool)) else None


def _is_waited(node: fx.Node) -> bool:
    """Return whether the graph waits for a collective, or for all members of its result."""
    for user in node.users:
        if _operation(user) in (WAIT, *transported.WAITS):
            return True
        if getattr(user.target, "__name__", "") == "getitem" and not _is_waited(user):
            return False
    return any(getattr(user.target, "__name__", "") == "getitem" for user in node.users)


def _bytes(value: Any) -> int:
    """Return the size of a tensor; 0 for anything else, and for dynamic sizes."""
    if not isinstance(value, torch.Tensor) or not all(type(n) is int for n in value.shape):
        return 0
    return math.prod(value.shape) * value.element_size()
