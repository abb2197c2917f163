"""How values are cut: axis states, arithmetic on sizes, the sizes of slices."""

from domino_compile.axes.chunks import Chunks
from domino_compile.axes.sizes import Shape, Size, divides, quotient, to_shape, to_size
from domino_compile.axes.states import (
    WHOLE,
    Partial,
    PartialMax,
    PartialSum,
    PerSlice,
    Prefix,
    PrefixSum,
    Sliced,
    State,
    States,
    Whole,
    state_at,
)

__all__ = [
    "WHOLE",
    "Chunks",
    "Partial",
    "PartialMax",
    "PartialSum",
    "PerSlice",
    "Prefix",
    "PrefixSum",
    "Shape",
    "Size",
    "Sliced",
    "State",
    "States",
    "Whole",
    "divides",
    "quotient",
    "state_at",
    "to_shape",
    "to_size",
]
