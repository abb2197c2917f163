"""Run somebody's script as it is, with its ``torch.compile`` calls handed to this backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from domino_compile import _compat
from domino_compile.report import reports
from domino_compile.report.explanation import Explanation, explanation_of
from domino_compile.switch import compile_with_domino
from domino_compile.tools.scripts import (
    Asked,
    Compiles,
    Enough,
    ScriptError,
    compiles_redirected,
    require_something,
    run_script,
)
from domino_compile.tools.scripts.groups import faked

__all__ = ["Observation", "ScriptError", "observe"]


@dataclass
class Observation:
    """What a script did.

    Attributes:
        code: the exit code it ended with; 0 if it was ended because it had run enough.
        compiled: its calls of ``torch.compile``.
        explanation: of what was compiled.
    """

    code: int = 0
    compiled: Compiles = field(default_factory=Compiles)
    explanation: Explanation = field(default_factory=lambda: Explanation((), ()))

    @property
    def compiles(self) -> int:
        """How many times it called ``torch.compile`` with a backend that is looked at."""
        return self.compiled.calls

    def check(self, script: Path) -> None:
        """Require that there is something to say.

        Raises:
            ScriptError: no compile, or no collective in what was compiled; with the next step.
        """
        graphs, rows = len(self.explanation.graphs), len(self.explanation.rows)
        require_something(script, self.compiled, graphs, rows)


def observe(
    script: Path,
    arguments: Sequence[str],
    options: Mapping[str, object],
    calls: int = 1,
    ranks: int | None = None,
) -> Observation:
    """Run a script until a graph that it compiled has run ``calls`` times, or to its end.

    A script that fails is shown with its own traceback, and its exit code is kept.

    Args:
        script: its path.
        arguments: its command line.
        options: of the backend.
        calls: how often a compiled graph may run.
        ranks: size of a fake group that takes the place of the script's own; None: its own.

    Raises:
        ScriptError: there is no such file.
    """
    found = Observation()
    known = len(reports())

    def compile_graph(
        asked: Asked, gm: torch.fx.GraphModule, inputs: list[Any]
    ) -> Callable[..., Any]:
        chosen = {"lowering": "eager", "check_ranks": False, **options}
        return _ending(compile_with_domino(asked, chosen, gm, inputs), calls)

    with ExitStack() as stack:
        stack.enter_context(compiles_redirected(found.compiled, compile_graph))
        stack.enter_context(_compat.backward_at_once())
        if ranks is not None:
            stack.enter_context(faked(ranks))
        found.code = run_script(script, arguments)
    found.explanation = explanation_of(reports()[known:])
    return found


def _ending(program: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """The program, which ends the script when it is called once too often."""
    ran = 0

    def run(*values: Any) -> Any:
        nonlocal ran
        ran += 1
        if ran > calls:
            raise Enough
        return program(*values)

    return run
