"""The input of a rule (``Call``) and its answer (``Cut`` or ``Refusal``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from domino_compile.axes import Chunks, Shape, Size, Sliced, State, States


def by_name(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return an operation's arguments by their names in its schema, with defaults filled in."""
    schema = getattr(op, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema is not None else []
    return {**dict(zip(names, args, strict=False)), **kwargs}


def by_schema(op: Any, given: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments from named ones: the inverse of ``by_name``."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for argument in op._schema.arguments:
        if argument.kwarg_only:
            if argument.name in given:
                kwargs[argument.name] = given[argument.name]
        else:
            args.append(given.get(argument.name, argument.default_value))
    return tuple(args), kwargs


@dataclass(frozen=True)
class Operand:
    """A tensor argument: its state, and the shape and type of the *whole* value.

    Attributes:
        index: Its place among the tensor arguments.
        state: Its state.
        shape: The shape of the whole value.
        dtype: Its type.
        counts: The dimension along which each element is its own number, 0, 1, 2, ..., as in
            ``arange``; ``None`` if there is none.
    """

    index: int
    state: States
    shape: Shape
    dtype: torch.dtype | None = None
    counts: int | None = None

    @property
    def rank(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def sliced(self) -> Sliced | None:
        """The state, if the operand is cut along a dimension."""
        return self.state if isinstance(self.state, Sliced) else None


@dataclass(frozen=True)
class Subgraph:
    """An argument that is a function: the graph that a higher-order operation calls."""

    graph: fx.Graph

    @property
    def inputs(self) -> list[fx.Node]:
        """Its arguments, in order."""
        return self.graph.find_nodes(op="placeholder")


@dataclass(frozen=True)
class Inside:
    """How a ``Subgraph`` is computed slice by slice.

    Attributes:
        inputs: The required state of each of its inputs.
        out: The state of each of its results; a zero result may also be a ``PartialSum``.
        zeros: Whether each of its results is zero.
        analysis: The cut of its operations, for the pass that makes each slice's graph.
    """

    inputs: tuple[State, ...]
    out: tuple[State, ...]
    zeros: tuple[bool, ...]
    analysis: Any


FollowInside = Callable[[Subgraph, tuple[State, ...], tuple[State, ...]], "Inside | Refusal"]


@dataclass(frozen=True)
class Call:
    """One operation of the graph, as a rule sees it.

    Attributes:
        op: The called operator (an ``OpOverload``, or a function such as ``operator.mul``).
        args: Positional arguments, with an ``Operand`` for each tensor and a ``Subgraph`` for each
            function.
        kwargs: Keyword arguments, in the same form.
        out: The shape of the whole result; for several results a tuple with ``None`` for each
            member that is not a tensor.
        batch: The extent ``B`` of the cut axis.
        operands: The tensor arguments, in order.
        inside: A function that follows a cut through a ``Subgraph``, given the states of its
            inputs and the preferred states of its results.
    """

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    batch: Size
    operands: tuple[Operand, ...] = field(default=())
    inside: FollowInside | None = None

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """Return the argument at ``position`` or called ``name``."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def cut_operands(self) -> Iterator[Operand]:
        """Yield the operands that are cut."""
        return (x for x in self.operands if x.sliced is not None)

    @property
    def out_shape(self) -> Shape:
        """The shape of the operation's single result."""
        shape: Shape = self.out
        return shape

    def needs(self, **_: Any) -> tuple[States, ...]:
        """Return the current states of the operands."""
        return tuple(x.state for x in self.operands)


@dataclass(frozen=True)
class Scaled:
    """An integer argument that shrinks with the slice.

    ``argument`` is the position or keyword of the argument; ``entry`` the index in it if it
    is a list of sizes. Its value for the whole program, ``extent``, is a multiple of ``B``.
    """

    argument: int | str
    entry: int | None
    extent: Size


#: A function that builds the operation of one slice: (slice's arguments, chunks, slice index) ->
#: (target, args, kwargs). Sizes in the arguments may be ``sympy`` expressions.
Build = Callable[
    [tuple[Any, ...], dict[str, Any], Chunks, int], tuple[Any, tuple[Any, ...], dict[str, Any]]
]


#: Makes one operation of the slice that is being made: (target, *args) -> its node.
Emit = Callable[..., Any]


@dataclass(frozen=True)
class Members:
    """The results of a slice that several operations make together.

    Attributes:
        base: The node that gives the results that ``given`` does not name.
        given: The other results by their number: a node, or ``Summands``.
    """

    base: Any
    given: Mapping[int, Any]


@dataclass(frozen=True)
class Summands:
    """The summands that slice ``i`` contributes to a ``PrefixSum``.

    Attributes:
        past: The summand for the chunks ``0 .. i - 1``, in one tensor.
        own: The summand for chunk ``i``.
    """

    past: Any
    own: Any


#: Makes one slice by several operations: (emit, arguments of the slice, chunks, slice index) ->
#: its node, or ``Members``. An operand whose required state is ``Prefix`` is given as a list of the
#: chunks that the slice sees, the slice's chunk last.
Expand = Callable[[Emit, tuple[Any, ...], dict[str, Any], Chunks, int], Any]


@dataclass(frozen=True)
class Function:
    """A function that the operation calls: each slice gets a version for its shapes.

    Attributes:
        captured: The indices of the operands that are the function's last arguments; ``None`` for a
            value that is not a tensor.
        inside: The cut of its operations; ``None`` if it computes the same for every slice.
    """

    captured: tuple[int | None, ...]
    inside: Inside | None = None


@dataclass(frozen=True)
class Cut:
    """The answer that an operation can be computed slice by slice.

    Attributes:
        inputs: The required state of each operand, in the order of ``Call.operands``.
            An operand in another state is joined, cut, or both.
        out: The state of the result(s).
        scaled: Integer arguments that shrink with the slice.
        build: How to make the operation of one slice, if it is not the same operation on sliced
            arguments.
        expand: How to make one slice, if that takes several operations.
        chain: The index of the operand that accumulates. Slice ``i`` gets the result of slice
            ``i - 1`` there, and the last result is the whole one (``out`` is ``WHOLE``).
        finish: For a ``PartialSum``, the operations that turn the sum into the whole result, as
            ``(target, extra positional arguments)``.
        functions: One entry for each ``Subgraph`` among the arguments, in order.
    """

    inputs: tuple[States, ...]
    out: States
    scaled: tuple[Scaled, ...] = ()
    build: Build | None = None
    expand: Expand | None = None
    chain: int | None = None
    finish: tuple[tuple[Any, tuple[Any, ...]], ...] = ()
    functions: tuple[Function, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """The answer that an operation cannot be cut: its inputs are joined and it runs whole."""

    reason: str


Outcome = Cut | Refusal
