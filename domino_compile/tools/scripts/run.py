"""Run a Python script in this process, with its own command line, traceback and exit code."""

from __future__ import annotations

import runpy
import sys
import traceback
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path

import torch.distributed as dist

from domino_compile.errors import DominoError
from domino_compile.host.replaced import replaced


class Enough(BaseException):
    """Ends a script that has run long enough; no ``except Exception`` stops it."""


class ScriptError(DominoError, RuntimeError):
    """The script cannot be run, or says nothing about overlap. One line, says what to do."""


def run_script(script: Path, arguments: Sequence[str]) -> int:
    """Run a script to its end, or until something in it raises ``Enough``.

    A script that fails is shown with its own traceback, without the frames that run it.

    Args:
        script: its path.
        arguments: its command line.

    Returns:
        Its exit code; 0 if it was ended because it had run enough.

    Raises:
        ScriptError: there is no such file.
    """
    require_file(script)
    with (
        replaced(sys, "argv", [str(script), *arguments]),
        replaced(sys, "path", [str(script.parent), *sys.path]),
        chdir("."),  # back, wherever the script went: files are named from here
    ):
        return _run(script)


def require_file(script: Path) -> None:
    """Require that the script is there.

    Raises:
        ScriptError: it is not.
    """
    if not script.is_file():
        raise ScriptError(f"{script}: no such file")


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
