"""Which nodes of a graph can be cut along one axis, and along which axis to cut."""

from domino_compile.analysis.columns import cut_columns
from domino_compile.analysis.infer import (
    MIN_DYNAMIC_ROWS,
    CutPlan,
    NoCut,
    infer_cut,
    most_slices,
    rows_of,
)
from domino_compile.analysis.propagate import Analysis, propagate

__all__ = [
    "MIN_DYNAMIC_ROWS",
    "Analysis",
    "CutPlan",
    "NoCut",
    "cut_columns",
    "infer_cut",
    "most_slices",
    "propagate",
    "rows_of",
]
