"""Graphs as plain data: what the checker reads, and what a dump keeps of them.

A graph is a list of operations in order. Targets are names, such as ``aten.mm.default``; dynamic
sizes are the numbers seen while compiling.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from domino_compile.verify.transported import RELEASES, STARTS, WAITS, command_of

INPUT, CONSTANT, GETITEM = "input", "constant", "getitem"
#: An operation whose result depends on the rank: a rank's block of what all ranks have.
OWN_PART = "domino_compile.own_part.default"
#: Tokens go to the ranks that a cut gives them to, or back; and what puts them in order for that.
EXCHANGE = "domino_compile.all_to_all_tokens.default"
ARRANGE = "domino_compile.arrange_tokens.default"
#: Operations without operands that number the elements of a dimension.
COUNTS = ("prims.iota.default",)
#: Operations that take a number from a tensor's data, on which sizes may depend.
TAKEN = ("aten._local_scalar_dense.default",)


class Ref(NamedTuple):
    """An argument that is another operation's result."""

    name: str


class Tensor(NamedTuple):
    """The shape and type of a value."""

    shape: tuple[int, ...]
    dtype: str


#: A tensor, several results (``None`` for one that is not a tensor), or something else.
Value: TypeAlias = Tensor | tuple[Any, ...] | None


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a graph.

    Attributes:
        name: The name of its result.
        target: What is called; ``INPUT``, ``CONSTANT`` or ``GETITEM`` for what is no call.
        args: The positional arguments; nested tuples with a ``Ref`` for each operand.
        kwargs: The keyword arguments, sorted by name.
        value: The result.
        pure: Whether nothing happens if it is left out.
        trace: The stack of the user's program, as torch keeps it.
        operands: The names of the values that it takes, in order, each as often as it is taken.
    """

    name: str
    target: str
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    value: Value
    pure: bool = True
    trace: str = ""
    operands: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Asked for far more often than operations are made.
        operands = tuple([ref.name for ref in refs((self.args, self.kwargs))])
        object.__setattr__(self, "operands", operands)

    @property
    def line(self) -> str:
        """Return the user's line, as ``file.py:12: code``; empty if it is not known."""
        lines = [line.strip() for line in self.trace.splitlines() if line.strip()]
        user_line = ""
        for head, code in itertools.zip_longest(lines, lines[1:], fillvalue=""):
            if head.startswith("File ") and "/torch/" not in head:
                path, number, *_ = head.removeprefix("File ").split(", ")
                file = path.strip('"').replace("\\", "/").rsplit("/", 1)[-1]
                user_line = f"{file}:{number.removeprefix('line ')}: {code}"
        return user_line

    @property
    def tensor(self) -> Tensor:
        """Return its result, which must be one tensor.

        Raises:
            ValueError: The result is not one tensor.
        """
        if not isinstance(self.value, Tensor):
            raise ValueError(f"{self.name} is not a tensor")
        return self.value


@dataclass
class Graph:
    """A graph.

    Attributes:
        operations: The operations by name, in order.
        outputs: The names of its results; ``None`` or a number for what is no value.
        inner: The graphs that it calls, by name.
        inputs: The names of its arguments, in order; ``None`` for one that is a number.
        single: Whether it has one result that is no tuple.
    """

    operations: dict[str, Operation] = field(default_factory=dict)
    outputs: tuple[Any, ...] = ()
    inner: dict[str, Graph] = field(default_factory=dict)
    inputs: tuple[str | None, ...] = ()
    single: bool = False


def refs(argument: Any) -> list[Ref]:
    """Return the operands in an argument."""
    found: list[Ref] = []
    _collect(argument, found)
    return found


def _collect(argument: Any, found: list[Ref]) -> None:
    if type(argument) is Ref:
        found.append(argument)
    elif type(argument) is tuple:
        for item in argument:
            if type(item) is tuple or type(item) is Ref:
                _collect(item, found)


def replaced(argument: Any, by: Callable[[Ref], Any]) -> Any:
    """Return an argument with every operand replaced."""
    if type(argument) is Ref:
        return by(argument)
    if type(argument) is tuple:
        # Most items are numbers: no call for those.
        return tuple(
            [
                replaced(item, by) if type(item) is tuple or type(item) is Ref else item
                for item in argument
            ]
        )
    return argument


def is_launch(operation: Operation) -> bool:
    """Return whether the operation starts a collective."""
    return _launches(operation.target)


@cache
def _launches(name: str) -> bool:
    if name.startswith("_c10d_functional."):
        return not name.startswith("_c10d_functional.wait")
    return name == EXCHANGE or command_of(name) in STARTS


def is_wait(operation: Operation) -> bool:
    """Return whether the operation waits for a collective."""
    return _waits(operation.target)


@cache
def _waits(name: str) -> bool:
    return name.startswith("_c10d_functional.wait") or command_of(name) in WAITS


def is_release(operation: Operation) -> bool:
    """Return whether the operation ends the use of a slot of the transport."""
    return command_of(operation.target) in RELEASES


def ranks_of(start: Operation) -> tuple[int, int]:
    """Return the rank that a graph with a start of the transport is for, and how many there are."""
    named = dict(start.kwargs)
    return named["rank"], named["ranks"]


def to_json(graph: Graph) -> dict[str, Any]:
    """Return a graph as JSON data."""
    rows = [
        [op.name, op.target, _encode(op.args), _encode(op.kwargs), _encode_value(op.value), op.pure]
        for op in graph.operations.values()
    ]
    data: dict[str, Any] = {"operations": rows, "outputs": _encode(graph.outputs)}
    data |= {"inputs": list(graph.inputs), "single": graph.single}
    if graph.inner:
        data["inner"] = {name: to_json(inner) for name, inner in graph.inner.items()}
    return data


def from_json(data: Mapping[str, Any]) -> Graph:
    """Return the graph that ``to_json`` described."""
    operations = {}
    for name, target, args, kwargs, value, pure in data["operations"]:
        operations[name] = Operation(
            name, target, _decode(args), _decode(kwargs), _decode_value(value), pure
        )
    inner = {name: from_json(graph) for name, graph in data.get("inner", {}).items()}
    return Graph(operations, _decode(data["outputs"]), inner, tuple(data["inputs"]), data["single"])


def _encode(argument: Any) -> Any:
    import torch

    if isinstance(argument, Ref):
        return {"ref": argument.name}
    if type(argument) is tuple:
        return [_encode(item) for item in argument]
    if isinstance(argument, (torch.dtype, torch.layout, torch.memory_format)):
        return {"torch": str(argument).removeprefix("torch.")}
    if isinstance(argument, torch.device):
        return {"device": argument.type}
    if isinstance(argument, complex):
        return {"complex": [argument.real, argument.imag]}
    return argument


def _decode(data: Any) -> Any:
    import torch

    if isinstance(data, list):
        return tuple(_decode(item) for item in data)
    if isinstance(data, dict):
        ((kind, value),) = data.items()
        if kind == "ref":
            return Ref(value)
        if kind == "torch":
            return getattr(torch, value)
        return torch.device(value) if kind == "device" else complex(*value)
    return data


def _encode_value(value: Value) -> Any:
    if isinstance(value, Tensor):
        return [list(value.shape), value.dtype]
    return None if value is None else {"members": [_encode_value(member) for member in value]}


def _decode_value(data: Any) -> Value:
    if isinstance(data, list):
        return Tensor(tuple(data[0]), data[1])
    return None if data is None else tuple(_decode_value(member) for member in data["members"])
