"""Runs a Python script in this process, with its own command line, traceback and exit code."""

from __future__ import annotations

import importlib.util
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path

import torch.distributed as dist

from domino_compile.errors import DominoError
from domino_compile.host.replaced import replaced
from domino_compile.tools.scripts.known import next_step

#: The file that the frames of ``runpy`` name.
_RUNPY = runpy.run_path.__code__.co_filename
_ENOUGH = "domino_compile_enough"


def enough() -> SystemExit:
    """Return what stops a script that has run long enough: an ordinary, silent exit.

    ``except Exception`` does not catch it, a thread ends without a word, and a program that shows
    whatever ends it shows ``SystemExit``.
    """
    end = SystemExit(0)
    vars(end)[_ENOUGH] = True
    return end


def _was_stopped(error: BaseException | None) -> bool:
    """Return whether ``enough`` is the error, or what a program was handling when it raised it."""
    while error is not None:
        if vars(error).get(_ENOUGH):
            return True
        error = error.__cause__ or error.__context__
    return False


class ScriptError(DominoError, RuntimeError):
    """The script cannot be run, or shows nothing about overlap. One line that says what to do."""


def run_script(script: Path, arguments: Sequence[str]) -> int:
    """Run a script until it ends or something in it raises ``enough()``.

    If the script fails, its traceback is printed without the frames that run it. Its process group
    is destroyed.

    Args:
        script: The path of the script.
        arguments: Its command line.

    Returns:
        The script's exit code; 0 if it was stopped because it had run long enough.

    Raises:
        ScriptError: There is no such file, or the script failed for a known reason.
    """
    try:
        return run_program(Program(str(script)), arguments, next_step)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@dataclass(frozen=True)
class Program:
    """A script, or a module as in ``python -m module``.

    Attributes:
        name: The script's path, or the module's dotted name.
        is_module: Whether it is a module.
    """

    name: str
    is_module: bool = False

    def require(self) -> None:
        """Require that the program exists.

        Raises:
            ScriptError: The program does not exist.
        """
        if self.is_module:
            _require_module(self.name)
        else:
            require_file(Path(self.name))

    def run(self) -> None:
        """Run the program as ``__main__``."""
        if self.is_module:
            runpy.run_module(self.name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(self.name, run_name="__main__")


def run_program(
    program: Program,
    arguments: Sequence[str],
    explained: Callable[[str, str], str] = lambda name, error: "",
) -> int:
    """Run a program to its end, as Python would, and return its exit code.

    Args:
        program: A script or a module.
        arguments: Its command line.
        explained: Returns what to do about an error, given the program's name and the error's last
            line; empty if that is not known. The traceback is then shown.

    Raises:
        ScriptError: The program does not exist, or it failed with an error that is explained.
    """
    place = str(Path.cwd() if program.is_module else Path(program.name).parent)
    with (
        replaced(sys, "argv", [program.name, *arguments]),
        replaced(sys, "path", [place, *sys.path]),
        chdir("."),  # return to this folder afterwards, since files are named relative to it
    ):
        program.require()
        return _run(program, explained)


def require_file(script: Path) -> None:
    """Require that the script exists and is a file.

    Raises:
        ScriptError: The script does not exist, or it is a folder.
    """
    if script.is_dir():
        raise ScriptError(f"{script} is a folder: name a script in it, or a module with -m")
    if not script.is_file():
        raise ScriptError(f"{script}: no such file")


def _require_module(name: str) -> None:
    """Require that ``python -m`` would find the module; packages around it are imported.

    Raises:
        ScriptError: There is no such module, or the name is that of a file or a bare package.
    """
    if "/" in name or (name.endswith(".py") and Path(name).is_file()):
        # To look for a module `train.py` would import `train`, and so run it.
        raise ScriptError(
            f"{name!r} is a path, not a module: leave out -m, or write "
            f"-m {name.removesuffix('.py').strip('./').replace('/', '.')}"
        )
    spec = _found(name)
    if spec is None:
        raise ScriptError(f"no module named {name!r} (searched as by python -m)")
    if spec.submodule_search_locations is not None and _found(f"{name}.__main__") is None:
        raise ScriptError(f"{name!r} is a package without __main__.py: name a module in it")


def _found(module: str) -> ModuleSpec | None:
    if "" in module.split("."):
        return None
    try:
        return importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None


def _run(program: Program, explained: Callable[[str, str], str]) -> int:
    try:
        program.run()
    except SystemExit as end:
        if _was_stopped(end):
            return 0
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except ScriptError:
        raise
    except Exception as error:
        if _was_stopped(error):
            return 0
        last = traceback.format_exception_only(error)[-1].strip()
        if advice := explained(program.name, last):
            raise ScriptError(advice) from None
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, _RUNPY):
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
        return 1
    return 0
