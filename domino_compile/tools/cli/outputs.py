"""Output files and the table of collectives, for the commands that explain or measure them."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from domino_compile import __version__
from domino_compile.tools.calibrate.settings import why_unwritable
from domino_compile.tools.cli.show import fail, say, show_table

if TYPE_CHECKING:
    from domino_compile.report.explanation import Explanation, Row
    from domino_compile.tools.html import ReportData


@dataclass(frozen=True)
class Outputs:
    """The files to write.

    Attributes:
        html: The report as one file.
        png: A picture of the timelines.
        trace: The timelines as a Chrome trace.
    """

    html: Path | None = None
    png: Path | None = None
    trace: Path | None = None

    def __bool__(self) -> bool:
        return any((self.html, self.png, self.trace))

    def check(self) -> None:
        """End the command right away if a file could not be written later."""
        check_files(self.html, self.png, self.trace)

    def write(self, data: ReportData) -> None:
        """Write the files, and name them on stderr."""
        from domino_compile.tools.html import page
        from domino_compile.tools.timelines.chrome import chrome_trace
        from domino_compile.tools.timelines.picture import draw

        if self.html:
            self.html.write_text(page(data), encoding="utf-8")
        if self.trace:
            self.trace.write_text(chrome_trace(data.timelines), encoding="utf-8")
        if self.png:
            first = min((t.rank for t in data.timelines), default=0)
            drawn = [t for t in data.timelines if t.rank == first and t.spans]
            if not drawn:
                fail(f"{self.png} was not written: there is no collective to draw", code=1)
            draw(drawn, data.title, self.png)
        for path in filter(None, (self.html, self.png, self.trace)):
            click.echo(f"written: {path}", err=True)


def check_files(*paths: Path | None) -> None:
    """End the command if one of the files cannot be written."""
    for path in paths:
        if path is not None and (reason := why_unwritable(path)):
            fail(f"{path}: cannot be written: {reason}")


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--html``, ``--png`` and ``--trace``."""
    kind = click.Path(path_type=Path)
    for option in (
        click.option("--trace", type=kind, help="Write the timelines as a trace for Perfetto."),
        click.option("--png", type=kind, help="Write a picture of the timelines."),
        click.option("--html", type=kind, help="Write the report with timelines, table and graphs "
                     "as one file that needs no network."),
    ):  # fmt: skip
        command = option(command)
    return command


def facts(**more: str | None) -> tuple[tuple[str, str], ...]:
    """Return the facts that a report states about its origin."""
    known: dict[str, str | None] = {
        "command": " ".join(["domino", *sys.argv[1:]]),
        **more,
        "domino_compile": __version__,
        "torch": version("torch"),
        "Python": platform.python_version(),
    }
    return tuple((name, value) for name, value in known.items() if value)


def show_explanation(explanation: Explanation) -> None:
    """Print the treatment of each graph and of each collective."""
    for line in explanation.verdict():
        say(line)
    for graph in explanation.graphs:
        say(graph.summary)
    if not explanation.rows:
        return
    show_table(
        ["where", "phase", "status", "exposed", "before", "wire", "collective", "bytes",
         "hidden under"],
        [_cells(row) for row in explanation.rows],
        title="Collectives (predicted, not measured; before: exposed with Inductor alone)",
        always=4,
    )  # fmt: skip
    said: dict[tuple[str, str], int] = {}
    for row in explanation.rows:
        if row.reason and not row.overlapped:
            key = (row.reason, row.advice)
            said[key] = said.get(key, 0) + 1
    for (reason, advice), count in said.items():
        say(f"{count} not hidden: {reason}{f'; {advice}' if advice else ''}")


def _cells(row: Row) -> list[str]:
    from domino_compile.report.origin import bytes_text, time_text

    under = ", ".join(row.hidden_under[:3]) + (", ..." if len(row.hidden_under) > 3 else "")
    return [
        row.module or row.place,
        row.phase,
        row.status,
        time_text(row.exposed_us),
        time_text(row.uncut_exposed_us),
        time_text(row.wire_us),
        row.kind,
        bytes_text(row.bytes),
        under,
    ]
