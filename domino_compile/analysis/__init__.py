"""Which nodes of a graph can be cut along one axis, and along which axis to cut."""

from domino_compile.analysis.columns import cut_columns
from domino_compile.analysis.infer import MIN_DYNAMIC_ROWS, CutPlan, NoCut, infer_cut
from domino_compile.analysis.propagate import Analysis, propagate

__all__ = [
    "MIN_DYNAMIC_ROWS",
    "Analysis",
    "CutPlan",
    "NoCut",
    "cut_columns",
    "infer_cut",
    "propagate",
]
