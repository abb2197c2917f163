"""Tells the user of a script without anything to overlap what to do next."""

from __future__ import annotations

from pathlib import Path

from domino_compile.report.origin import count_text
from domino_compile.tools.scripts.compiles import Compiles
from domino_compile.tools.scripts.run import ScriptError


def require_something(
    script: Path | str, compiles: Compiles, graphs: int | None, collectives: int | None
) -> None:
    """Require that a script compiled something in which ranks communicate.

    Args:
        script: The path of the script, or the name of the module.
        compiles: Its calls of ``torch.compile``.
        graphs: The number of graphs that ran; None if unknown.
        collectives: The number of collectives in them; None if unknown.

    Raises:
        ScriptError: Nothing was compiled, or it has no collective; says what to do next.
    """
    if not compiles.calls:
        others = f" (only backend={compiles.others[0]!r})" if compiles.others else ""
        raise ScriptError(
            f"{script} compiled nothing{others}: put model = torch.compile(model) in front of "
            "its training loop"
        )
    if graphs == 0:
        raise ScriptError(f"{script} called torch.compile but never ran the compiled model")
    if collectives == 0:
        compiled = "its graphs" if graphs is None else count_text(graphs, "compiled graph")
        raise ScriptError(
            f"{script} has no collective in {compiled}: compile the model after making it tensor "
            "parallel, and run all ranks of its group (torchrun, or --ranks)"
        )
