"""Options and error handling that all commands which run a script share."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from domino_compile.tools.cli.show import digits, fail, warn

#: Everything behind the script goes to the script, as with torchrun.
CONTEXT: dict[str, Any] = {"allow_interspersed_args": False}
_FOLDER = click.Path(file_okay=False, path_type=Path)
DEFAULT_RANKS = 2


def script_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the script, its arguments, ``--ranks``, ``--link``, ``--steps`` and ``--warmup``."""
    for decorate in reversed(
        (
            click.argument("script", type=click.Path(path_type=Path)),
            click.argument("arguments", nargs=-1, type=click.UNPROCESSED),
            click.option(
                "--ranks",
                type=click.IntRange(min=1),
                help="Ranks to start on this machine.  [one per GPU, or 2]",
            ),
            click.option(
                "--link",
                metavar="NAME|FILE",
                help="Emulate this link (see: domino links), between CPU ranks or on one GPU that "
                "acts as one of --ranks.",
            ),
            click.option(
                "--steps",
                type=click.IntRange(min=1),
                default=10,
                show_default=True,
                help="Number of timed steps.",
            ),
            click.option(
                "--warmup",
                type=click.IntRange(min=1),
                default=4,
                show_default=True,
                help="Untimed steps before them.",
            ),
        )
    ):
        command = decorate(command)
    return command


def behind_script(script: Path, arguments: tuple[str, ...], command: str) -> tuple[str, ...]:
    """Return a script's own arguments, and say on stderr which they are.

    Args:
        script: The script.
        arguments: Everything behind it; a ``--`` in front is dropped.
        command: The command's name, to warn of its options among them.
    """
    passed = arguments[1:] if arguments[:1] == ("--",) else arguments
    if not passed or int(os.environ.get("RANK", "0")):
        return passed
    click.echo(f"{script} gets: {shlex.join(passed)}", err=True)
    context = click.get_current_context()
    known = {name for parameter in context.command.params for name in parameter.opts}
    ours = [text for text in passed if text.partition("=")[0] in known and text.startswith("--")]
    if ours and arguments[:1] != ("--",):
        warn(
            f"{', '.join(ours)} went to the script; domino {command}'s own options stand in front "
            f"of {script}"
        )
    return passed


def out_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option ``--out``, the folder for results."""
    return click.option(
        "--out",
        type=_FOLDER,
        default=Path(default),
        show_default=True,
        help="Folder for the result, the timelines and the script's output.",
    )


def under_torchrun() -> bool:
    """Return whether this process is already one of several ranks."""
    return "RANK" in os.environ


def processes(ranks: int | None, link: str | None) -> tuple[int, int]:
    """Return the processes to start, and the ranks that one process emulates alone (0: none).

    This ends the command if that is not possible here.
    """
    import torch

    gpus = torch.cuda.device_count()
    if link is not None:
        from domino_compile.links import load_link

        table = load_link(link)  # report a wrong name at once, not from a rank
        if gpus:
            return 1, ranks or table.ranks
        return ranks or DEFAULT_RANKS, 0
    count = ranks or gpus or DEFAULT_RANKS
    if gpus and count > gpus:
        fail(f"--ranks {count} needs {count} GPUs, not {gpus}; --link NAME emulates missing ones")
    if count < 2:
        fail("a single rank does not communicate: add --link NAME (see: domino links) to emulate "
             "other ranks, or --ranks 2")  # fmt: skip
    return count, 0


def prepare(script: Path, out: Path) -> None:
    """Check at once what would otherwise fail after minutes."""
    from domino_compile.tools.scripts.run import require_file

    require_file(script)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--out {out}: {error.strerror}")


@contextmanager
def script_failures(code: int | None = None) -> Iterator[None]:
    """End the command if the script fails, with the script's traceback and then one line.

    Args:
        code: The command's exit code in that case; None uses the script's.
    """
    from domino_compile.host.launch import RanksError
    from domino_compile.tools.profiling.ranks import ScriptFailed
    from domino_compile.tools.scripts import ScriptError

    try:
        yield
    except ScriptFailed as failed:
        click.echo(failed.shown, err=True)
        _end(failed, code or failed.code)
    except (ScriptError, RanksError) as error:
        _end(error, 1)


def _end(error: Exception, code: int) -> NoReturn:
    fail(str(error), code)


def ms_text(value: float | None) -> str:
    """Format milliseconds for a table."""
    return "-" if value is None else digits(value) if value else "0"


def group_rows(groups: Mapping[str, Any]) -> list[list[str]]:
    """Return one table row per process group."""
    return [
        [
            name or "(unknown)",
            f"{group['collectives']:g}",
            ms_text(group["wire_ms"]),
            ms_text(group["exposed_ms"]),
            ms_text(group["hidden_ms"]),
        ]
        for name, group in groups.items()
    ]
