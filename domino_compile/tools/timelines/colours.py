"""The colours of all pictures, which distinguish slices."""

from __future__ import annotations

from domino_compile.tools.timelines.spans import STILL, WIRE, Span

#: Of slices 0, 1, 2, ... in turn: a palette for colour-blind readers (Okabe and Ito), without its
#: black and red.
SLICES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#b8a500")
#: What is not cut.
WHOLE = "#8a8f98"
#: Standing still for a collective, and for another rank: visible on white and on black.
WAIT, LATE = "#e0483e", "#9470d6"


def colour_of(span: Span) -> str:
    """Return the colour of a span; the column parts of a row slice share its colour."""
    if span.kind in STILL:
        return WAIT if span.kind == "wait" else LATE
    return WHOLE if span.slice is None else SLICES[span.slice % len(SLICES)]


def strength_of(span: Span) -> float:
    """Return how strongly a span is painted: collectives, products and attention most.

    What computes without being told apart is painted strongly too.
    """
    if span.kind in STILL:
        return 0.12
    return 1.0 if span.lane == WIRE or span.kind in ("gemm", "attention", "compute") else 0.55
