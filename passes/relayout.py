"""``relayout``: leave gathered tokens in the order in which they arrive.

DTensor's sequence parallelism gathers the tokens of several rows along dimension 0 and then puts
each row's tokens side by side, with ``split`` and ``cat``. Inductor copies the activation for it,
and computes whatever it fuses with the copy once for each rank. ``analysis.token_order`` finds the
operations that can work on the tokens as they come; this pass lets them. Where row order is needed
after all, one permuted copy replaces the ``split`` and ``cat``, and nothing at all where a graph
(or a slice of it) has one row only.

Contract: The pass takes a functional joint or inference graph, cut or not. Afterwards no ``cat`` of
all parts of one value is left, unless the graph returns it or its sizes are dynamic. Sums over
tokens, in weight gradients, may add them up in another order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx

from domino_compile import _compat
from domino_compile.analysis.token_order import (
    Form,
    Found,
    Order,
    Stacked,
    extent_of,
    find_gathered,
    orders,
    removable,
    stacked,
)
from domino_compile.graph.new_nodes import inherit, run_fake
from domino_compile.graph.nodes import VIEWS, is_returned
from domino_compile.verify.claims import Whole, Witness

aten = torch.ops.aten


@dataclass(frozen=True)
class Relaid:
    """What the pass has done.

    Attributes:
        witness: Which values after the pass stand for which before.
    """

    witness: Witness

    def __bool__(self) -> bool:
        return bool(self.witness.claims)


def relayout_graph(graph: fx.Graph) -> Relaid:
    """Remove changes of the order of tokens, in place."""
    witness = Witness()
    for order in orders(graph):
        found = find_gathered(graph, order)
        if found.roles:
            _Rewriting(graph, found, witness).run()
    for node in list(graph.find_nodes(op="call_function", target=aten.cat.default)):
        if not node.users and stacked(node) is not None:
            _erase(node)
        elif (moved := removable(node)) is not None:
            with graph.inserting_before(node):
                instead = _moved(graph, node, moved)
            _replace(node, instead, witness)
    return Relaid(witness)


class _Rewriting:
    """Rewrites the operations that should work in gathered order."""

    def __init__(self, graph: fx.Graph, found: Found, witness: Witness) -> None:
        self.graph, self.found, self.witness = graph, found, witness
        self.order = found.order
        #: Values in gathered order, by the value in row order.
        self.gathered: dict[fx.Node, fx.Node] = dict(found.gathers)
        self.replaced: dict[fx.Node, Form] = {}

    def run(self) -> None:
        """Rewrite all, in the order of the graph."""
        for node, role in self.found.roles.items():
            inside = {value: self._in_gathered(value, form, node) for value, form in role.operands}
            if role.result is None:
                for value, instead in inside.items():
                    node.replace_input_with(value, instead)
            else:
                self.gathered[node] = self._again(node, role.result, inside)
                self.replaced[node] = role.result
        for node, value in self.found.scatters.items():
            if value in self.gathered and not is_returned(node):
                _replace(node, self.gathered[value], self.witness)
        for node, form in self.replaced.items():
            self._give_rows(node, form)
        for node in reversed(self.replaced):
            if not node.users:
                self.graph.erase_node(node)

    def _again(self, node: fx.Node, form: Form, inside: Mapping[fx.Node, fx.Node]) -> fx.Node:
        """Compute the result of an operation in gathered order."""
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda arg: inside.get(arg, arg))
        target: Any = node.target
        if target in VIEWS:
            target = aten.reshape.default
            args = (args[0], _gathered_shape(self.order, form, node.meta["val"].shape))
        with self.graph.inserting_before(node):
            return _call(self.graph, node, target, args, kwargs)

    def _in_gathered(self, value: fx.Node, form: Form, user: fx.Node) -> fx.Node:
        """Return a value in gathered order, copied if need be."""
        if value not in self.gathered:
            order = self.order
            blocks = (order.rows, order.ranks, order.shard)
            shape = _gathered_shape(order, form, value.meta["val"].shape)
            with self.graph.inserting_before(user):
                self.gathered[value] = _swapped(self.graph, value, value, form, blocks, shape)
        return self.gathered[value]

    def _give_rows(self, node: fx.Node, form: Form) -> None:
        """Let what still needs row order have a copy."""
        users = [user for user in node.users if user not in self.replaced]
        if not users:
            return
        order = self.order
        blocks, shape = (order.ranks, order.rows, order.shard), list(node.meta["val"].shape)
        with self.graph.inserting_before(node):
            rows = _swapped(self.graph, self.gathered[node], node, form, blocks, shape)
        for user in users:
            user.replace_input_with(node, rows)
        self.witness.add(node.name, Whole(rows.name))


def _gathered_shape(order: Order, form: Form, shape: Sequence[int]) -> list[int]:
    """Return the shape in gathered order of a value with a shape in row order."""
    if form is Form.SPREAD:
        return [order.ranks * order.rows, order.shard, *shape[2:]]
    return list(shape)


def _swapped(
    graph: fx.Graph,
    value: fx.Node,
    like: fx.Node,
    form: Form,
    blocks: tuple[int, int, int],
    shape: list[int],
) -> fx.Node:
    """Swap the outer two of three nested blocks of tokens.

    Args:
        graph: The graph, at the place of insertion.
        value: The value.
        like: The node whose origin the new nodes get.
        form: The form of the value.
        blocks: The extents of the blocks in the value, outermost first.
        shape: The shape of the result.
    """
    call = partial(_call, graph, like)
    if value.meta["val"].ndim == 2 and not _compat.is_contiguous(value.meta["val"]):
        # Keep the strides: a scaled product wants its second factor to be column-major.
        other = {Form.FLAT: Form.TURNED, Form.TURNED: Form.FLAT}[form]
        turned = call(aten.permute.default, (value, [1, 0]))
        if _compat.is_contiguous(turned.meta["val"]):
            swapped = _swapped(graph, turned, like, other, blocks, shape[::-1])
            return call(aten.permute.default, (swapped, [1, 0]))
    first = 1 if form is Form.TURNED else 0
    rest = value.meta["val"].shape[2 if form is Form.SPREAD else 1 :]
    apart = [*value.meta["val"].shape[:first], *blocks, *(rest if first == 0 else ())]
    dims = list(range(len(apart)))
    dims[first], dims[first + 1] = first + 1, first
    return _copied(graph, like, call(aten.reshape.default, (value, apart)), dims, shape)


def _moved(graph: fx.Graph, node: fx.Node, moved: Stacked) -> fx.Node:
    """Return the result of a ``cat`` of all parts of one value, made without parts."""
    shape = list(moved.source.meta["val"].shape)
    result = list(node.meta["val"].shape)
    if extent_of(moved) == 1:
        return _call(graph, node, aten.reshape.default, (moved.source, result))
    along = moved.along
    apart = [*shape[:along], moved.count, shape[along] // moved.count, *shape[along + 1 :]]
    dims = [d for d in range(len(apart)) if d != along]
    dims.insert(moved.into, along)
    whole = _call(graph, node, aten.reshape.default, (moved.source, apart))
    return _copied(graph, node, whole, dims, result)


def _copied(
    graph: fx.Graph, like: fx.Node, value: fx.Node, dims: list[int], shape: list[int]
) -> fx.Node:
    """Permute a value and copy it into a new shape."""
    permuted = _call(graph, like, aten.permute.default, (value, dims))
    contiguous = {"memory_format": torch.contiguous_format}
    copy = _call(graph, like, aten.clone.default, (permuted,), contiguous)
    return _call(graph, like, aten.reshape.default, (copy, shape))


def _call(
    graph: fx.Graph,
    like: fx.Node,
    target: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
) -> fx.Node:
    """Insert a call with its value, named after another node and with its origin."""
    name = f"{like.name}_relaid"
    node = graph.create_node("call_function", target, args, dict(kwargs or {}), name)
    inherit(node, like)
    run_fake(node)
    return node


def _replace(node: fx.Node, instead: fx.Node, witness: Witness) -> None:
    """Replace the ``cat`` of the parts of a value."""
    node.replace_all_uses_with(instead)
    witness.add(node.name, Whole(instead.name))
    _erase(node)


def _erase(node: fx.Node) -> None:
    """Erase the ``cat`` of the parts of a value, and the parts if nothing else needs them."""
    parts = node.all_input_nodes
    for old in (node, *parts, *parts[0].all_input_nodes):
        if not old.users:
            node.graph.erase_node(old)
