"""Overlap tensor-parallel communication with compute, in the compiler.

`torch.compile(model, backend="domino")` finds the backend without an import of this package.
What a compile did is in `reports()`.
"""

from domino_compile.errors import DominoError, InternalError, OptionError, RankMismatchError
from domino_compile.options import Options
from domino_compile.report import CompileReport, reports, reset_reports

__all__ = [
    "CompileReport",
    "DominoError",
    "InternalError",
    "OptionError",
    "Options",
    "RankMismatchError",
    "reports",
    "reset_reports",
]
