"""The command ``domino``: its sub-commands by name, each loaded on use.

Each command is a function in a separate module, which loads torch only when it runs. ``COMMANDS``
lists them all; shared code is in ``show.py``.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from types import FrameType
from typing import NoReturn

import click

from domino_compile import __version__
from domino_compile.errors import DominoError, did_you_mean
from domino_compile.host.launch import end_at_once
from domino_compile.tools.cli.show import Failure, examples, fail

#: Sub-command: "module:function".
COMMANDS: Mapping[str, str] = {
    "links": "domino_compile.tools.cli.links:links",
    "calibrate": "domino_compile.tools.cli.calibrate:calibrate",
    "run": "domino_compile.tools.cli.run:run",
    "explain": "domino_compile.tools.cli.explain:explain",
    "report": "domino_compile.tools.cli.report:report",
    "verify": "domino_compile.tools.cli.verify:verify",
    "profile": "domino_compile.tools.cli.profile:profile",
    "poc": "domino_compile.tools.cli.poc:poc",
    "bench": "domino_compile.tools.cli.bench:bench",
}

#: How long the other ranks let rank 0 be the first to report a failure.
RANK_0_FIRST_S = 5.0


class Commands(click.Group):
    """A group whose commands are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, in the order of ``COMMANDS``."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, or one that only reports that it cannot be loaded."""
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, function = target.partition(":")
        try:
            command = getattr(importlib.import_module(module), function)
        except ImportError as error:
            return _unavailable(cmd_name, str(error))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, each with its first sentence in full."""
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        rows = [
            (name, (command.help or "").partition("\n\n")[0].replace("\n", " "))
            for name, command in commands
            if command is not None and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve as click does, but suggest the closest name for an unknown one."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            hint = did_you_mean(args[0], COMMANDS)
            fail(f"unknown command {args[0]!r}{hint}; known: {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)


def _unavailable(name: str, reason: str) -> click.Command:
    @click.command(name, hidden=True, context_settings={"ignore_unknown_options": True})
    @click.argument("rest", nargs=-1, type=click.UNPROCESSED)
    def unavailable(rest: tuple[str, ...]) -> None:
        fail(f"domino {name} cannot run here: {reason}")

    return unavailable


def _show_version(ctx: click.Context) -> None:
    """Print the versions that a bug report needs, without loading torch."""
    python = platform.python_version()
    click.echo(f"domino {__version__} (torch {metadata.version('torch')}, Python {python})")
    ctx.exit()


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples("domino links", "domino links h200-nvlink-8 --json", "domino calibrate --help")
    + "\n\n\b\nExit codes:\n  0    success\n  1    it ran, but a check or the run itself failed\n"
    "  2    bad input, or the command cannot run here\n  130  interrupted",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=lambda ctx, _option, asked: _show_version(ctx) if asked else None,
    help="Show the versions of domino, torch and Python, and exit.",
)
@click.pass_context
def domino(ctx: click.Context) -> None:
    """Overlap tensor-parallel communication with compute: explain, measure and benchmark it.

    The compiler itself needs no command: torch.compile(model, backend="domino").
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run the command line, and return its exit code; errors are one line on stderr."""
    try:
        code = domino.main(list(arguments), prog_name="domino", standalone_mode=False)
        sys.stdout.flush()
    except Failure as failure:
        return _error(str(failure), failure.code)
    except click.UsageError as usage:
        where = usage.ctx.command_path if usage.ctx is not None else "domino"
        return _error(f"{usage.format_message()} (see: {where} --help)", 2)
    except click.ClickException as other:
        return _error(other.format_message(), 2)
    except DominoError as error:
        return _error(str(error), 2)
    except (click.Abort, KeyboardInterrupt):
        return _say("interrupted", 130)
    except BrokenPipeError:  # nobody reads our output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        reason = error.strerror or str(error)
        return _error(reason if error.filename is None else f"{error.filename}: {reason}", 1)
    return code if isinstance(code, int) else 0


def _error(message: str, code: int) -> int:
    """Report why the command failed.

    A failure on all of torchrun's ranks is reported by rank 0, whose exit ends the others while
    they wait here. A failure on another rank only is reported by that rank.
    """
    if _under_torchrun() and int(os.environ.get("RANK", "0")):
        time.sleep(RANK_0_FIRST_S)
    return _say(message, code)


def _say(message: str, code: int) -> int:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return code


def end_cleanly_on_sigterm() -> None:
    """Treat SIGTERM like Ctrl-C, so that a command also ends the processes it started.

    This is not done on torchrun's ranks: a rank that waits in a collective would only notice the
    signal after the collective.
    """
    if not _under_torchrun():
        signal.signal(signal.SIGTERM, _interrupt)


@contextlib.contextmanager
def ranks_end_at_once() -> Iterator[None]:
    """End a rank of torchrun as soon as it exits (``launch.end_at_once``)."""
    try:
        yield
    except SystemExit as end:
        if not _under_torchrun():
            raise
        end_at_once(end.code if isinstance(end.code, int) else int(end.code is not None))


def _under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
