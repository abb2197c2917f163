"""Printing, failing and help texts for all commands.

Results go to stdout: ``show_table`` and ``say``, or with ``--json`` one object through
``print_json``. Everything else (progress, warnings, errors) goes to stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

#: Called with a line of text about the current work, and the share of the work done (0 to 1).
Progress = Callable[[str, float], None]
#: Spaces between two columns.
_GAP = 2
#: The width of a pipe: nothing is wrapped or left out.
PIPED_WIDTH = 10_000
#: The least width that the first column is wrapped to.
_FIRST = 16
#: A line of progress is written after this many seconds at the earliest, if stderr is no terminal.
PROGRESS_S = 5.0
#: The longest time without a line, also while the work stays the same.
MOST_SILENT_S = 10.0
#: Below this width every column may be wrapped.
NARROW = 60
_NUMBER = re.compile(r"[\d\s.,%+x-]*(e[+-]\d+)?( [KMG]?i?B)?|\(empty\)|-")

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
)


class Failure(Exception):
    """Ends a command with one line on stderr and an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def fail(message: str, code: int = 2) -> NoReturn:
    """End the command with ``error: message``.

    Args:
        message: The problem and how to solve it.
        code: 2 for bad input or if the command cannot run here; 1 if it ran and failed.
    """
    raise Failure(message, code)


def require_enabled() -> None:
    """End a command that shows what domino does if the environment switches domino off."""
    from domino_compile.options import Options

    if Options().with_environment(os.environ).disable:
        fail("DOMINO_COMPILE_DISABLE=1 leaves everything to Inductor alone: unset it to see what "
             "domino does")  # fmt: skip


def examples(*lines: str) -> str:
    """Return a command's ``epilog``: its examples, one per line, without reflowing."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints text literally, with colour only on a terminal.

    What goes to a file or a pipe is as wide as it needs to be, unless ``COLUMNS`` says otherwise.
    """
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else PIPED_WIDTH
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, width=width)


def say(text: str) -> None:
    """Print a paragraph, wrapped to the terminal's width."""
    console().print(text)


def print_json(data: object) -> None:
    """Print one JSON object on stdout."""
    click.echo(json.dumps(data, indent=1))


def warn(message: str) -> None:
    """Print one line ``warning: ...`` on stderr."""
    click.echo(f"warning: {' '.join(message.split())}", err=True)


def show_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    wrap: bool = False,
    always: int = 1,
) -> None:
    """Print a table that fits the terminal.

    Args:
        columns: The headings, most important first. Columns that do not fit are left out and named
            below the table; the first column is wrapped before that happens.
        rows: The cells as text; a column of numbers is right-aligned.
        title: The text above the table.
        wrap: Whether to keep all columns and wrap the last one, which holds prose.
        always: The number of columns that always stay.
    """
    out = console()
    kept = len(columns) if wrap else max(always, _fitting(columns, rows, out.width))
    made = Table(
        title=Text(title, style="bold") if title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, _GAP - 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for position in range(kept):
        numbers = all(_NUMBER.fullmatch(row[position]) for row in rows) and position > 0
        made.add_column(
            Text(columns[position]),
            justify="right" if numbers else "left",
            overflow="fold",
            no_wrap=False if wrap or out.width < NARROW else position > 0,
        )
    for row in rows:
        made.add_row(*(Text(cell) for cell in row[:kept]))
    out.print(made)
    if kept < len(columns):
        out.print(
            f"Not shown, terminal too narrow: {', '.join(columns[kept:])} (--json has all columns)"
        )
    out.print()


def _fitting(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> int:
    """Return how many columns fit into a width if only the first is wrapped, at least one."""
    used = -_GAP
    for position, heading in enumerate(columns):
        longest = max(len(cell) for cell in (heading, *(row[position] for row in rows)))
        used += _GAP + (min(longest, _FIRST) if position == 0 else longest)
        if used > width and position > 0:
            return position
    return len(columns)


def digits(value: float) -> str:
    """Format three significant digits without an exponent, for values of at least 0.001."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def size_text(nbytes: int) -> str:
    """Format bytes in a suitable unit: ``12 B``, ``64 KiB``, ``1 MiB``."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if nbytes >= unit:
            return f"{nbytes / unit:.4g} {name}"
    return f"{nbytes} B"


class _ProgressLines:
    """Writes a line of progress to stderr every few seconds, also while nothing is reported."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._now = "starting"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> _ProgressLines:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def say(self, text: str) -> None:
        """Report the current work; it is written with the next line."""
        self._now = text

    def show(self, text: str, share: float) -> None:
        """Report the current work, and the share of the work done."""
        self.say(f"{share:4.0%} {text}")

    def _write(self) -> None:
        wait, last = PROGRESS_S, ""
        while not self._ended.wait(wait):
            text = self._now
            seconds = time.monotonic() - self._began
            click.echo(f"[{seconds:4.0f} s] {text}", err=True)
            wait = min(2 * wait, MOST_SILENT_S) if text == last else PROGRESS_S
            last = text


@contextlib.contextmanager
def progress_lines(*, enabled: bool = True) -> Iterator[Callable[[str], None]]:
    """Write a line of progress to stderr every few seconds, where a script writes to it as well.

    Args:
        enabled: Whether to write; false on ranks other than the first.
    """
    if not enabled:
        yield lambda text: None
        return
    with _ProgressLines() as lines:
        yield lines.say


@contextlib.contextmanager
def progress_bar(*, enabled: bool = True) -> Iterator[Progress]:
    """Show a progress bar on stderr while the block runs, or lines if stderr is no terminal.

    Args:
        enabled: Whether to show it; false on ranks other than the first.
    """
    if not enabled:
        yield lambda text, share: None
        return
    if not sys.stderr.isatty():
        with _ProgressLines() as lines:
            yield lines.show
        return
    columns = [
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    ]
    with Bar(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)

        def show(text: str, share: float) -> None:
            bar.update(task, completed=share, description=text)

        yield show
