"""Runs a Python script in this process, with its own command line, traceback and exit code."""

from __future__ import annotations

import importlib.util
import runpy
import sys
import traceback
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from domino_compile.errors import DominoError
from domino_compile.host.replaced import replaced

#: The file that the frames of ``runpy`` name.
_RUNPY = runpy.run_path.__code__.co_filename


class Enough(BaseException):
    """Stops a script that has run long enough; ``except Exception`` does not catch it."""


class ScriptError(DominoError, RuntimeError):
    """The script cannot be run, or shows nothing about overlap. One line that says what to do."""


def run_script(script: Path, arguments: Sequence[str]) -> int:
    """Run a script until it ends or something in it raises ``Enough``.

    If the script fails, its traceback is printed without the frames that run it. Its process group
    is destroyed.

    Args:
        script: The path of the script.
        arguments: Its command line.

    Returns:
        The script's exit code; 0 if it was stopped because it had run long enough.

    Raises:
        ScriptError: There is no such file.
    """
    try:
        return run_program(Program(str(script)), arguments)
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
        if not self.is_module:
            require_file(Path(self.name))
            return
        try:
            found = importlib.util.find_spec(self.name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise ScriptError(f"no module named {self.name!r} (searched as by python -m)")

    def run(self) -> None:
        """Run the program as ``__main__``."""
        if self.is_module:
            runpy.run_module(self.name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(self.name, run_name="__main__")


def run_program(program: Program, arguments: Sequence[str]) -> int:
    """Run a program to its end, as Python would, and return its exit code.

    Raises:
        ScriptError: The program does not exist.
    """
    place = str(Path.cwd() if program.is_module else Path(program.name).parent)
    with (
        replaced(sys, "argv", [program.name, *arguments]),
        replaced(sys, "path", [place, *sys.path]),
        chdir("."),  # return to this folder afterwards, since files are named relative to it
    ):
        program.require()
        return _run(program)


def require_file(script: Path) -> None:
    """Require that the script exists.

    Raises:
        ScriptError: The script does not exist.
    """
    if not script.is_file():
        raise ScriptError(f"{script}: no such file")


def _run(program: Program) -> int:
    try:
        program.run()
    except Enough:
        return 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except Exception as error:
        own = error.__traceback__
        while own is not None and own.tb_frame.f_code.co_filename in (__file__, _RUNPY):
            own = own.tb_next
        traceback.print_exception(type(error), error, own or error.__traceback__)
        return 1
    return 0
