"""Runs a user's unmodified script and compiles with this backend when it compiles."""

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
    ScriptError,
    compiles_redirected,
    enough,
    require_something,
    run_script,
)
from domino_compile.tools.scripts.groups import faked
from domino_compile.tools.scripts.spawned import first_rank_only, spawning_refused

__all__ = ["Observation", "ScriptError", "observe"]


@dataclass
class Observation:
    """The result of running a script.

    Attributes:
        code: The script's exit code; 0 if it was stopped because it had run long enough.
        compiled: Its calls of ``torch.compile``.
        explanation: The explanation of the compiled graphs.
    """

    code: int = 0
    compiled: Compiles = field(default_factory=Compiles)
    explanation: Explanation = field(default_factory=lambda: Explanation((), ()))

    @property
    def compiles(self) -> int:
        """Return how many times it called ``torch.compile`` with a backend that is redirected."""
        return self.compiled.calls

    def check(self, script: Path) -> None:
        """Require that there is something to explain.

        Raises:
            ScriptError: Nothing was compiled, or it has no collective; says what to do next.
        """
        graphs, rows = len(self.explanation.graphs), len(self.explanation.rows)
        require_something(script, self.compiled, graphs, rows)


def observe(
    script: Path,
    arguments: Sequence[str],
    options: Mapping[str, object],
    calls: int = 1,
    ranks: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Observation:
    """Run a script until a graph that it compiled has run ``calls`` times, or to its end.

    If the script fails, its traceback is printed and its exit code is kept.

    Args:
        script: The path of the script.
        arguments: Its command line.
        options: The options of the backend.
        calls: How often a compiled graph may run.
        ranks: The size of a fake group that replaces the script's own; None keeps its own.
        progress: Called with a text about the current work.

    Raises:
        ScriptError: There is no such file.
    """
    observation = Observation()
    known = len(reports())

    def compile_graph(
        asked: Asked, gm: torch.fx.GraphModule, inputs: list[Any]
    ) -> Callable[..., Any]:
        chosen = {"lowering": "eager", "check_ranks": False, **options}
        graph = f"graph {observation.compiled.graphs} ({len(gm.graph.nodes)} operations)"
        progress(f"planning {graph}")
        planned = compile_with_domino(asked, chosen, gm, inputs)
        progress(f"running {graph}, one operation at a time")
        return _ending(planned, calls)

    with ExitStack() as stack:
        stack.enter_context(compiles_redirected(observation.compiled, compile_graph))
        stack.enter_context(_compat.backward_at_once())
        if ranks is not None:
            stack.enter_context(faked(ranks))
            stack.enter_context(first_rank_only())
        else:
            stack.enter_context(spawning_refused(script))
        progress("running the script")
        observation.code = run_script(script, arguments)
    observation.explanation = explanation_of(reports()[known:])
    return observation


def _ending(program: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """Return the program, wrapped to stop the script after ``calls`` calls."""
    ran = 0

    def run(*values: Any) -> Any:
        nonlocal ran
        ran += 1
        if ran > calls:
            raise enough()
        return program(*values)

    return run
