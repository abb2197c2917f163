"""``domino run``: runs an unmodified program with domino in place of Inductor.

It needs no package except torch, and leaves the program's signals, streams and exit code alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch

from domino_compile.errors import DominoError, OptionError
from domino_compile.report import reports
from domino_compile.switch import compile_with_domino
from domino_compile.tools.scripts.compiles import Asked, Compiles, compiles_redirected
from domino_compile.tools.scripts.options import parsed_options
from domino_compile.tools.scripts.run import Program, ScriptError, run_program
from domino_compile.tools.scripts.said import require_something

DESCRIPTION = """\
Run the unmodified SCRIPT. When it asks torch.compile for Inductor, by name or by default, it gets
domino. When it asks for domino, it also gets the options given here. Everything after SCRIPT is
passed to the script."""
EXAMPLES = """\
Examples:
  domino run train.py --epochs 1
  domino run --slices 2 --option dump_dir=out train.py
  torchrun --nproc-per-node 8 -m domino_compile run train.py
  torchrun --nproc-per-node 8 -m domino_compile run -m torchtitan.train --module llama3

The exit code is the script's, or 2 if the script could not be started."""


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line."""

    def error(self, message: str) -> NoReturn:
        if message.endswith("required: SCRIPT, ..."):
            message = "no script: write domino run train.py"
        raise OptionError(f"{message} (see: {self.prog} --help)")


def _parser() -> _Parser:
    parser = _Parser(
        "domino run",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--slices", type=int, metavar="N", help="number of slices of the batch")
    parser.add_argument("--columns", type=int, metavar="N", help="number of column parts")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any option of the backend; can be repeated",
    )
    parser.add_argument("-m", "--module", action="store_true", help="SCRIPT is a module name")
    parser.add_argument("script", metavar="SCRIPT")
    parser.add_argument("arguments", metavar="...", nargs=argparse.REMAINDER)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code; errors are one line on stderr."""
    try:
        asked = _parser().parse_args(arguments)
        given = {"slices": asked.slices, "columns": asked.columns}
        options = {name: value for name, value in given.items() if value is not None}
        return run(
            Program(asked.script, asked.module),
            asked.arguments,
            parsed_options(asked.option, options),
        )
    except DominoError as error:
        _say(f"error: {error}")
        return 2


def run(program: Program, arguments: Sequence[str], options: dict[str, Any]) -> int:
    """Run a program and compile with domino when it asks for Inductor or domino.

    If the program succeeds but gives domino nothing to do, a warning names the next step.

    Args:
        program: A script or a module.
        arguments: Its command line.
        options: The options of domino.

    Returns:
        The program's exit code.

    Raises:
        ScriptError: There is no such program.
    """
    compiles, known = Compiles(), len(reports())

    def compile_graph(
        asked: Asked, gm: torch.fx.GraphModule, inputs: list[Any]
    ) -> Callable[..., Any]:
        return compile_with_domino(asked, options, gm, inputs)

    with compiles_redirected(compiles, compile_graph):
        code = run_program(program, arguments)
    if not code:
        collectives = sum(len(report.collectives) for report in reports()[known:])
        try:
            require_something(program.name, compiles, compiles.graphs, collectives)
        except ScriptError as error:
            _say(f"warning: {error}")
    return code


def _say(line: str) -> None:
    """Print one line on stderr, on the first rank of a machine only."""
    if not int(os.environ.get("LOCAL_RANK", "0")):
        print(line, file=sys.stderr, flush=True)
