"""Reads a graph of torch into plain data (``verify.plain``)."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import fx

from domino_compile import _compat
from domino_compile._compat.operators import HigherOrderOperator, OpOverload
from domino_compile._compat.sizes import number_of
from domino_compile.verify.plain import (
    CONSTANT,
    GETITEM,
    INPUT,
    TAKEN,
    Graph,
    Operation,
    Ref,
    Tensor,
    Value,
    replaced,
)
from domino_compile.verify.transported import STARTS, command_of

#: Operations that are known under another name, and how many of their arguments that one takes.
SAME_AS = {
    "domino_compile.mm_beside.default": ("aten.mm.default", 2),
    "domino_compile.addmm_beside.default": ("aten.addmm.default", 3),
    "domino_compile.materialise.default": ("aten.clone.default", 1),
}


def read_graph(graph: fx.Graph) -> Graph:
    """Return a graph as plain data."""
    reader = _Reader(graph)
    for node in graph.nodes:
        reader.read(node)
    inputs = graph.find_nodes(op="placeholder")
    reader.made.inputs = tuple(None if n in reader.numbers else n.name for n in inputs)
    return reader.made


class _Reader:
    """Reads one graph. Sizes become numbers, which are computed as the graph computes them."""

    def __init__(self, graph: fx.Graph) -> None:
        self.made = Graph()
        self.root = graph.owning_module
        self.numbers: dict[fx.Node, Any] = {}

    def read(self, node: fx.Node) -> None:
        """Read one node."""
        value = node.meta.get("val")
        if node.op == "output":
            made = self.argument(node.args[0])
            self.made.single = isinstance(made, Ref)
            several = (made,) if self.made.single else made
            self.made.outputs = tuple(x.name if isinstance(x, Ref) else x for x in several)
        elif isinstance(value, (int, float, torch.SymInt)) and not isinstance(value, bool):
            self.numbers[node] = self._number(node, value)
            if _name(node.target) in TAKEN:
                self._add(node, _name(node.target), (*self.argument(node.args), self.numbers[node]))
        elif node.op == "placeholder":
            self._add(node, INPUT, ())
        elif node.op == "get_attr":
            self._constant(node)
        elif getattr(node.target, "_name", "") == "control_deps":
            self._ordered(node)
        elif node.op == "call_function":
            self._call(node)
        else:
            raise NotImplementedError(f"{node.op} {node.target}")

    def argument(self, argument: Any) -> Any:
        """Return an argument as plain data."""
        if isinstance(argument, fx.Node):
            return self.numbers[argument] if argument in self.numbers else Ref(argument.name)
        if isinstance(argument, (tuple, list)):
            return tuple(map(self.argument, argument))
        return number_of(argument)

    def _number(self, node: fx.Node, value: Any) -> Any:
        if node.op == "call_function" and not isinstance(node.target, OpOverload):
            args = self.argument(node.args)
            if all(isinstance(x, (int, float)) for x in args):
                target: Any = node.target
                return target(*args)
        return number_of(value)

    def _call(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            self._add(node, GETITEM, self.argument(node.args))
            return
        name = _name(node.target)
        args = self.argument(node.args)
        if name in SAME_AS:
            name, count = SAME_AS[name]
            args = args[:count]
        kwargs = tuple(sorted((key, self.argument(x)) for key, x in node.kwargs.items()))
        if command_of(name) in STARTS:  # whose results are another rank's on every rank
            group = str(args[-1])
            kwargs += (("rank", _compat.rank_in(group)), ("ranks", _compat.group_size(group)))
        self._add(node, name, args, kwargs)

    def _ordered(self, node: fx.Node) -> None:
        """Read an operation that is only made to wait for others."""
        _, inside, *given = node.args
        body = getattr(self.root, str(inside.target))  # type: ignore[union-attr]
        inner = [n for n in body.graph.nodes if n.op == "call_function"]
        if len(inner) != 1:
            raise NotImplementedError("several operations that wait together")
        names = dict(zip(body.graph.find_nodes(op="placeholder"), given, strict=True))
        reader = _Reader(body.graph)
        reader.root = self.root
        reader.numbers = {n: self.numbers[x] for n, x in names.items() if x in self.numbers}
        reader.read(inner[0])
        (operation,) = reader.made.operations.values()
        outer = {n.name: x.name for n, x in names.items() if isinstance(x, fx.Node)}
        back: Callable[[Ref], Ref] = lambda ref: Ref(outer[ref.name])  # noqa: E731
        args, kwargs = replaced((operation.args, operation.kwargs), back)
        self._add(node, operation.target, args, kwargs, operation.pure)

    def _constant(self, node: fx.Node) -> None:
        value: Any = self.root
        for part in str(node.target).split("."):
            value = getattr(value, part, None)
        if isinstance(value, fx.GraphModule):
            self.made.inner[node.name] = read_graph(value.graph)
        self._add(node, CONSTANT, (str(node.target),))

    def _add(
        self,
        node: fx.Node,
        target: str,
        args: tuple[Any, ...],
        kwargs: tuple[tuple[str, Any], ...] = (),
        pure: bool | None = None,
    ) -> None:
        if pure is None:
            pure = node.op != "call_function" or _is_pure(node.target)
        value, trace = _value(node.meta.get("val")), str(node.meta.get("stack_trace") or "")
        self.made.operations[node.name] = Operation(
            node.name, target, args, kwargs, value, pure, trace
        )


@cache
def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@cache
def _is_pure(target: Any) -> bool:
    """Return whether an operation only computes its results, from its operands alone.

    Draws of random numbers depend on the draws before. (Attention has the tag because it may drop
    out, which no attention that is cut does.)
    """
    if not isinstance(target, OpOverload):
        return True
    schema = target._schema
    drawn = torch.Tag.nondeterministic_seeded in target.tags and "attention" not in schema.name
    return not (drawn or schema.is_mutable or not schema.returns)


@cache
def _name(target: Any) -> str:
    if isinstance(target, OpOverload):
        return str(target)
    if isinstance(target, HigherOrderOperator):
        return f"higher_order.{target._name}"
    module = getattr(target, "__module__", "")
    return f"{module}.{getattr(target, '__name__', target)}"


def _value(value: Any) -> Value:
    if isinstance(value, torch.Tensor):
        return Tensor(tuple(map(number_of, value.shape)), _dtype(value.dtype))
    if isinstance(value, (tuple, list)):
        return tuple(map(_value, value))
    return None
