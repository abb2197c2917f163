"""What a script is told that has nothing in it to overlap: the nearest next step."""

from __future__ import annotations

from pathlib import Path

from domino_compile.tools.scripts.compiles import Compiles
from domino_compile.tools.scripts.run import ScriptError


def require_something(
    script: Path | str, compiles: Compiles, graphs: int | None, collectives: int | None
) -> None:
    """Require that a script compiled something in which ranks communicate.

    Args:
        script: its path, or the name of its module.
        compiles: its calls of ``torch.compile``.
        graphs: how many graphs ran; None: not known.
        collectives: how many collectives were found in them; None: not known.

    Raises:
        ScriptError: no compile, or no collective in what was compiled; with the next step.
    """
    if not compiles.calls:
        others = f" (only backend={compiles.others[0]!r})" if compiles.others else ""
        raise ScriptError(
            f"{script} compiled nothing{others}: put model = torch.compile(model) in front of "
            "its training loop"
        )
    if graphs == 0:
        raise ScriptError(f"{script} called torch.compile but ran nothing of what it returned")
    if collectives == 0:
        among = "what" if graphs is None else f"the {graphs} graphs that"
        raise ScriptError(
            f"no collective in {among} {script} compiled: compile the model after it was made "
            "tensor parallel, with every rank of its group running (torchrun, or --ranks)"
        )
