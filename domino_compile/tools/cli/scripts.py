"""What the commands that run a script share: their options, and how a failed script is shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from domino_compile.tools.cli.show import digits, fail

#: What a command does not know is the script's own, and everything behind ``--``.
CONTEXT: dict[str, Any] = {"ignore_unknown_options": True}
_FOLDER = click.Path(file_okay=False, path_type=Path)
DEFAULT_RANKS = 2


def script_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The script and its arguments, ``--ranks``, ``--link``, ``--steps`` and ``--warmup``."""
    for decorate in reversed(
        (
            click.argument("script", type=click.Path(path_type=Path)),
            click.argument("arguments", nargs=-1, type=click.UNPROCESSED),
            click.option(
                "--ranks",
                type=click.IntRange(min=1),
                help="Ranks to start on this machine.  [the GPUs, or 2]",
            ),
            click.option(
                "--link",
                metavar="NAME|FILE",
                help="Emulate this link, see: domino links. Between CPU ranks, or on one GPU that "
                "stands for one of --ranks.",
            ),
            click.option(
                "--steps",
                type=click.IntRange(min=1),
                default=10,
                show_default=True,
                help="Steps that are timed.",
            ),
            click.option(
                "--warmup",
                type=click.IntRange(min=1),
                default=4,
                show_default=True,
                help="Steps before them.",
            ),
        )
    ):
        command = decorate(command)
    return command


def out_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--out``, where results go."""
    return click.option(
        "--out",
        type=_FOLDER,
        default=Path(default),
        show_default=True,
        help="Folder for the result, the timelines and what the script prints.",
    )


def under_torchrun() -> bool:
    """Whether this process is one of several ranks already."""
    return "RANK" in os.environ


def processes(ranks: int | None, link: str | None) -> tuple[int, int]:
    """How many processes to start, and for how many ranks one of them stands alone (0: none).

    Ends the command if that cannot be had here.
    """
    import torch

    gpus = torch.cuda.device_count()
    if link is not None:
        from domino_compile.links import load_link

        table = load_link(link)  # a wrong name is told at once, not by a rank
        if gpus:
            return 1, ranks or table.ranks
        return ranks or DEFAULT_RANKS, 0
    count = ranks or gpus or DEFAULT_RANKS
    if gpus and count > gpus:
        fail(f"--ranks {count} needs as many GPUs, {gpus} are here; --link NAME emulates the rest")
    if count < 2:
        fail("one rank communicates with nobody: add --link NAME (domino links lists them) to "
             "emulate others, or --ranks 2")  # fmt: skip
    return count, 0


def prepare(script: Path, out: Path) -> None:
    """Refuse at once what would fail after minutes."""
    from domino_compile.tools.scripts.run import require_file

    require_file(script)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--out {out}: {error.strerror}")


@contextmanager
def script_failures(code: int | None = None) -> Iterator[None]:
    """End the command when the script fails: with its own traceback, then one line.

    Args:
        code: exit code of the command then; None: the script's.
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
    """Milliseconds for a table."""
    return "-" if value is None else digits(value) if value else "0"


def group_rows(groups: Mapping[str, Any]) -> list[list[str]]:
    """A table row for every process group."""
    return [
        [
            name or "(not told)",
            f"{group['collectives']:g}",
            ms_text(group["wire_ms"]),
            ms_text(group["exposed_ms"]),
            ms_text(group["hidden_ms"]),
        ]
        for name, group in groups.items()
    ]
