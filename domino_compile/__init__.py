"""Overlap tensor-parallel communication with compute, in the compiler.

`torch.compile(model, backend="domino")` finds the backend without an import of this package.
What a compile did is in `reports()`; `explain(model, *inputs)` says what becomes of each
collective, and why; `with profile() as p:` measures steps and what overlap could win of them.
`enable()` gives domino to what asks for Inductor, where a framework offers no other choice.
"""

import logging
import os
from typing import TYPE_CHECKING, Any

from domino_compile.errors import DominoError, InternalError, OptionError, RankMismatchError
from domino_compile.options import Options
from domino_compile.options.environment import without_effect
from domino_compile.report import CompileReport, reports, reset_reports

if TYPE_CHECKING:
    from domino_compile.report.explanation import (
        Explanation,
        OverlapError,
        Row,
        explain,
        explanation_of,
        fake_ranks,
    )
    from domino_compile.switch import disable, enable
    from domino_compile.tools.profiling.context import ProfileError, profile
    from domino_compile.tools.profiling.result import ProfileResult

__version__ = "0.2.0.dev0"

#: Names whose module loads torch, with it: it is imported when one of them is first used.
_LAZY = {
    "Explanation": "report.explanation",
    "OverlapError": "report.explanation",
    "ProfileError": "tools.profiling.context",
    "ProfileResult": "tools.profiling.result",
    "Row": "report.explanation",
    "disable": "switch",
    "enable": "switch",
    "explain": "report.explanation",
    "explanation_of": "report.explanation",
    "fake_ranks": "report.explanation",
    "profile": "tools.profiling.context",
}

__all__ = [
    "CompileReport",
    "DominoError",
    "Explanation",
    "InternalError",
    "OptionError",
    "Options",
    "OverlapError",
    "ProfileError",
    "ProfileResult",
    "RankMismatchError",
    "Row",
    "disable",
    "enable",
    "explain",
    "explanation_of",
    "fake_ranks",
    "profile",
    "reports",
    "reset_reports",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def autoload() -> None:
    """Do nothing more: torch loads this where it is imported, and with it this package.

    That is how ``DOMINO_COMPILE_ENABLE=1`` acts on a program that does not import the package: by
    the entry points ``torch.backends``, which torch loads unless TORCH_DEVICE_BACKEND_AUTOLOAD=0.
    """


def _read_environment() -> None:
    """Turn the switch on if the environment says so, and warn of variables without effect.

    Raises:
        SystemExit: A variable has a bad value. torch would wrap any other error in one of its own,
            whose last line names neither the variable nor the value.
    """
    for line in without_effect(os.environ):
        logging.getLogger(__name__).warning(line)
    if os.environ.get("DOMINO_COMPILE_ENABLE", "0") == "0":
        return
    from domino_compile.switch import enable_from_environment

    try:
        enable_from_environment()
    except DominoError as error:
        raise SystemExit(f"error: {error}") from None


_read_environment()
