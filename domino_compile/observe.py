"""Run somebody's script as it is, with its ``torch.compile`` calls handed to this backend."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from domino_compile import _compat
from domino_compile.backend import domino
from domino_compile.errors import DominoError
from domino_compile.explanation import Explanation, explanation_of, fake_ranks
from domino_compile.report import reports


class Enough(BaseException):
    """Ends a script whose graphs have run often enough; no ``except Exception`` stops it."""


class ScriptError(DominoError, RuntimeError):
    """The script cannot be run, or says nothing about overlap. One line, says what to do."""


@dataclass
class Observation:
    """What a script did.

    Attributes:
        code: the exit code it ended with; 0 if it was ended because it had run enough.
        compiles: how many times it called ``torch.compile`` with a backend that is looked at.
        other_backends: those that it asked for and that were left alone.
        explanation: of what was compiled.
    """

    code: int = 0
    compiles: int = 0
    other_backends: list[str] = field(default_factory=list)
    explanation: Explanation = field(default_factory=lambda: Explanation((), ()))

    def check(self, script: Path) -> None:
        """Require that there is something to say.

        Raises:
            ScriptError: no compile, or no collective in what was compiled; with the next step.
        """
        if not self.compiles:
            others = f" (only backend={self.other_backends[0]!r})" if self.other_backends else ""
            raise ScriptError(
                f"{script} compiled nothing{others}: put model = torch.compile(model) in front of "
                "its training loop"
            )
        if not self.explanation.graphs:
            raise ScriptError(f"{script} called torch.compile but ran nothing of what it returned")
        if not self.explanation.rows:
            raise ScriptError(
                f"no collective in the {len(self.explanation.graphs)} graphs that {script} "
                "compiled: compile the model after it was made tensor parallel, with every rank of "
                "its group running (torchrun, or --ranks)"
            )


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
    if not script.is_file():
        raise ScriptError(f"{script}: no such file")
    found = Observation()
    known = len(reports())
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "argv", [str(script), *arguments]))
        stack.enter_context(mock.patch.object(sys, "path", [str(script.parent), *sys.path]))
        stack.enter_context(_compile_observed(found, options, calls))
        stack.enter_context(_compat.backward_at_once())
        if ranks is not None:
            stack.enter_context(_faked(ranks))
        found.code = _run(script)
    found.explanation = explanation_of(reports()[known:])
    return found


def _run(script: Path) -> int:
    try:
        runpy.run_path(str(script), run_name="__main__")
    except Enough:
        return 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except Exception as error:
        own = error.__traceback__
        while own is not None and own.tb_frame.f_code.co_filename != str(script):
            own = own.tb_next
        traceback.print_exception(type(error), error, own or error.__traceback__)
        return 1
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


@contextmanager
def _compile_observed(
    found: Observation, options: Mapping[str, object], calls: int
) -> Iterator[None]:
    """Let ``torch.compile`` (and ``Module.compile``, which calls it) use this backend."""
    original = torch.compile

    def compile_(model: Any = None, **settings: Any) -> Any:
        backend = settings.pop("backend", "inductor")
        if backend not in ("inductor", "domino"):
            found.other_backends.append(str(backend))
            return original(model, backend=backend, **settings)
        found.compiles += 1
        asked = settings.pop("options", None) or {}
        mode = settings.pop("mode", None)
        chosen = dict(asked) if backend == "domino" else {"inductor": dict(asked)}
        chosen |= {"lowering": "eager", "check_ranks": False, **options}

        def counted(gm: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
            program = domino(gm, inputs, mode=None if mode == "default" else mode, options=chosen)
            ran = 0

            def run(*values: Any) -> Any:
                nonlocal ran
                ran += 1
                if ran > calls:
                    raise Enough
                return program(*values)

            return run

        return original(model, backend=counted, **settings)

    with mock.patch.object(torch, "compile", compile_):
        yield


@contextmanager
def _faked(ranks: int) -> Iterator[None]:
    """A fake group in place of the one that the script, or a mesh that it makes, would start."""
    fake = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": "1"}
    fake |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    with (
        fake_ranks(ranks),
        mock.patch.dict(os.environ, fake),
        mock.patch.object(dist, "init_process_group", lambda *_, **__: None),
    ):
        yield
