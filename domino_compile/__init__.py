"""Overlap tensor-parallel communication with compute, in the compiler.

`torch.compile(model, backend="domino")` finds the backend without an import of this package.
What a compile did is in `reports()`; `explain(model, *inputs)` says what becomes of each
collective, and why.
"""

from typing import TYPE_CHECKING, Any

from domino_compile.errors import DominoError, InternalError, OptionError, RankMismatchError
from domino_compile.options import Options
from domino_compile.report import CompileReport, reports, reset_reports

if TYPE_CHECKING:
    from domino_compile.explanation import (
        Explanation,
        OverlapError,
        Row,
        explain,
        explanation_of,
        fake_ranks,
    )

#: Names whose module loads torch: it is imported when one of them is first used.
_LAZY = ("Explanation", "OverlapError", "Row", "explain", "explanation_of", "fake_ranks")

__all__ = [
    "CompileReport",
    "DominoError",
    "Explanation",
    "InternalError",
    "OptionError",
    "Options",
    "OverlapError",
    "RankMismatchError",
    "Row",
    "explain",
    "explanation_of",
    "fake_ranks",
    "reports",
    "reset_reports",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from domino_compile import explanation

        return getattr(explanation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
