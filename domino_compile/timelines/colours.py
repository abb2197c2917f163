"""The colours of every picture: they tell slices."""

from __future__ import annotations

#: Of slices 0, 1, 2, ... in turn: a palette for colour-blind readers (Okabe and Ito), without its
#: black and red.
SLICES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#b8a500")
#: What is not cut.
WHOLE = "#8a8f98"
#: Standing still for a collective.
WAIT = "#d1372b"


def colour_of(slice_: int | None) -> str:
    """The colour of a slice; the column parts of a row slice share it (see ``tags``)."""
    if slice_ is None:
        return WHOLE
    row = slice_ // 100 - 1 if slice_ >= 100 else slice_
    return SLICES[row % len(SLICES)]


def strength_of(kind: str) -> float:
    """How strongly work of a kind is painted: products and attention most."""
    return {"gemm": 1.0, "attention": 1.0, "wait": 0.25}.get(kind, 0.55)
