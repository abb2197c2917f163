"""The state of a value while a program is cut along one axis.

A program has one *cut axis* (usually the batch) of extent ``B``, cut into ``p``
chunks ``b_0 + ... + b_{p-1} = B``. Every value of the program is in one state:

``Whole``
    The value is not cut: there is one value.
``Sliced(dim, outer)``
    The value is cut: slice ``i`` holds its chunk of dimension ``dim``. The batch need not be
    the outermost factor of the dimension. The extent is ``outer * B * inner`` (``inner`` is the
    remaining factor), and slice ``i`` has ``outer * b_i * inner`` there, in the same order.
    ``(S, B, H) -> (S*B, H)`` gives ``Sliced(0, outer=S)``; an all-gather of ``n`` ranks on a
    ``Sliced(0)`` value gives ``Sliced(0, outer=n)`` (rank-major).
``PartialSum``
    Slice ``i`` holds a summand of the value. Only the result of an operation can be in this state.
    The sum is taken immediately, so no rule sees it as an input.
``PartialMax(largest)``
    Slice ``i`` holds the largest (or smallest) element of its rows, and the whole value is the
    largest (or smallest) of these. Otherwise it is like ``PartialSum``, but exact: nothing is
    rounded.
``PerSlice``
    Slice ``i`` holds a separate value that has no whole counterpart, such as the state of a random
    number generator. It is only passed on to operations that take it unchanged.
``Prefix(dim)``
    Slice ``i`` sees the chunks ``0 .. i`` of dimension ``dim``. An example are the keys of causal
    attention, where later tokens look back at all earlier ones. Only an operand can be required in
    this state. It is made of a ``Sliced(dim)`` value, without a copy.
``PrefixSum(dim)``
    The gradient of an operand that was required as ``Prefix(dim)``. Slice ``i`` holds a summand for
    each of the chunks ``0 .. i``, so chunk ``j`` is the sum over the slices ``i >= j``. Only the
    result of an operation can be in this state. The sums are taken immediately, and the operations
    that use the result see ``Sliced(dim)``.

The states follow the batching rules of JAX's ``vmap`` (``None`` = not mapped) and tinygrad's
sharded axis. Neither has ``outer``.
"""

from __future__ import annotations

from dataclasses import dataclass

from domino_compile.axes.sizes import Size


@dataclass(frozen=True)
class Whole:
    """The value is not cut."""

    def __str__(self) -> str:
        return "whole"


@dataclass(frozen=True)
class Sliced:
    """The value is cut along ``dim``, whose extent is ``outer * B * inner``."""

    dim: int
    outer: Size = 1

    def __str__(self) -> str:
        return (
            f"sliced({self.dim})" if self.outer == 1 else f"sliced({self.dim}, outer={self.outer})"
        )


@dataclass(frozen=True)
class PartialSum:
    """Each slice holds a summand of the whole value."""

    def __str__(self) -> str:
        return "partial sum"


@dataclass(frozen=True)
class PartialMax:
    """Each slice holds a maximum, or minimum, over its rows."""

    largest: bool = True

    def __str__(self) -> str:
        return "partial maximum" if self.largest else "partial minimum"


@dataclass(frozen=True)
class PerSlice:
    """Each slice holds a separate, opaque value."""

    def __str__(self) -> str:
        return "per slice"


@dataclass(frozen=True)
class Prefix:
    """Each slice sees its chunk of ``dim`` and all earlier chunks."""

    dim: int

    def __str__(self) -> str:
        return f"prefix({self.dim})"

    @property
    def chunk(self) -> Sliced:
        """The state of the value that the operand is made of."""
        return Sliced(self.dim)


@dataclass(frozen=True)
class PrefixSum:
    """Each slice holds a summand of its chunk of ``dim`` and of each earlier chunk."""

    dim: int

    def __str__(self) -> str:
        return f"prefix sum({self.dim})"

    @property
    def chunk(self) -> Sliced:
        """The state of the value once the summands are added up."""
        return Sliced(self.dim)


State = Whole | Sliced | PartialSum | PartialMax | PerSlice | Prefix | PrefixSum
#: The states in which the slices' values are immediately combined into the whole value.
Partial = PartialSum | PartialMax
#: The state of a node's value, or the states of the members of its tuple.
States = State | tuple[State, ...]

WHOLE = Whole()


def state_at(states: States, index: int) -> State:
    """Return the state of member ``index`` of a tuple-valued node (``WHOLE`` for a whole tuple)."""
    if isinstance(states, tuple):
        return states[index]
    return states
