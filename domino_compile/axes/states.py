"""The state of a value while a program is cut along one axis.

A program has one *cut axis* (usually the batch) of extent ``B``, cut into ``p``
chunks ``b_0 + ... + b_{p-1} = B``. Every value of the program is in one state:

``Whole``
    not cut; there is one value.
``Sliced(dim, outer)``
    cut; slice ``i`` holds its chunk of dimension ``dim``. The batch need not be
    the outermost factor of the dimension. The extent is
    ``outer * B * inner`` (``inner`` is whatever remains), and slice ``i`` has
    ``outer * b_i * inner`` there, in the same order. ``(S, B, H) -> (S*B, H)`` gives
    ``Sliced(0, outer=S)``; an all-gather of ``n`` ranks on a ``Sliced(0)`` value
    gives ``Sliced(0, outer=n)`` (rank-major).
``PartialSum``
    slice ``i`` holds a summand of the value. Only ever the result of an
    operation; the sum is taken at once, so no rule sees it as an input.
``PartialMax(largest)``
    slice ``i`` holds the largest (or smallest) element of its own rows; the whole value is the
    largest (smallest) of these. The same otherwise, but exact: it rounds nothing.
``PerSlice``
    slice ``i`` holds a value of its own that has no whole counterpart (a random
    number generator's state). Only passed on to operations that take it as it is.
``Prefix(dim)``
    slice ``i`` sees the chunks ``0 .. i`` of dimension ``dim``: the keys of causal attention,
    whose later tokens look back at all earlier ones. Only ever wanted of an operand, and
    made of a ``Sliced(dim)`` value: nothing is copied for the chunks to be seen.
``PrefixSum(dim)``
    the gradient of such an operand. Slice ``i`` holds a summand for each of the chunks
    ``0 .. i``, so chunk ``j`` is the sum over the slices ``i >= j``. Only ever the result of an
    operation; the sums are taken at once, and what operations behind it see is ``Sliced(dim)``.

The states follow the batching rules of JAX's ``vmap`` (``None`` = not mapped) and
tinygrad's sharded axis; ``outer`` is ours.
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
    """Each slice holds a maximum, or minimum, over its own rows."""

    largest: bool = True

    def __str__(self) -> str:
        return "partial maximum" if self.largest else "partial minimum"


@dataclass(frozen=True)
class PerSlice:
    """Each slice holds an opaque value of its own."""

    def __str__(self) -> str:
        return "per slice"


@dataclass(frozen=True)
class Prefix:
    """Each slice sees its own chunk of ``dim`` and all chunks before it."""

    dim: int

    def __str__(self) -> str:
        return f"prefix({self.dim})"

    @property
    def chunk(self) -> Sliced:
        """The state of the value that such an operand is made of."""
        return Sliced(self.dim)


@dataclass(frozen=True)
class PrefixSum:
    """Each slice holds a summand of its own chunk of ``dim`` and of each chunk before it."""

    dim: int

    def __str__(self) -> str:
        return f"prefix sum({self.dim})"

    @property
    def chunk(self) -> Sliced:
        """The state of the value once the summands are added up."""
        return Sliced(self.dim)


State = Whole | Sliced | PartialSum | PartialMax | PerSlice | Prefix | PrefixSum
#: States of which the slices' values are combined into the whole one at once.
Partial = PartialSum | PartialMax
#: The state of a node: of its value, or of each member of its tuple.
States = State | tuple[State, ...]

WHOLE = Whole()


def state_at(states: States, index: int) -> State:
    """The state of member ``index`` of a tuple-valued node (``WHOLE`` for a whole tuple)."""
    if isinstance(states, tuple):
        return states[index]
    return states
