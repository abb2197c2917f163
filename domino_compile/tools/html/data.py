"""The content of a report as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

from domino_compile.report.explanation import Explanation
from domino_compile.report.graph_rows import Rows
from domino_compile.tools.timelines import Timeline


@dataclass(frozen=True)
class GraphView:
    """The operations of one compiled graph, by phase, as rows of ``graph_rows.COLUMNS``.

    Attributes:
        number: The number of the compiled graph.
        summary: One line that says what was done.
        before: The captured operations.
        after: The planned operations.
    """

    number: int
    summary: str
    before: dict[str, Rows]
    after: dict[str, Rows]


@dataclass(frozen=True)
class Curve:
    """One training run.

    Attributes:
        name: The name for people, such as ``Inductor alone, run 1``.
        losses: The loss of each step.
        gradient_norms: The gradient norm of each step.
    """

    name: str
    losses: tuple[float, ...]
    gradient_norms: tuple[float, ...] = ()


@dataclass(frozen=True)
class Table:
    """Text in rows and columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Tile:
    """A large number at the top of the page.

    Attributes:
        value: The number, such as ``1.24x faster``.
        label: What it is.
        note: A detail below it.
        tone: ``good``, ``bad``, ``fair`` or empty.
    """

    value: str
    label: str
    note: str = ""
    tone: str = ""


@dataclass(frozen=True)
class ReportData:
    """The content of a report. Empty fields have no section.

    Attributes:
        title: The title of the report.
        facts: Names and values: the command, versions, the link.
        explanation: One row for each collective.
        verdict: Paragraphs at the top of the page.
        timelines: Steps that share one time axis, in drawing order.
        graphs: The compiled graphs.
        curves: Training runs.
        tables: Other numbers.
        tiles: The large numbers at the top.
        origin: Whether the times are predicted, or measured on a real or an emulated link.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    explanation: Explanation
    verdict: tuple[str, ...] = ()
    timelines: tuple[Timeline, ...] = ()
    graphs: tuple[GraphView, ...] = ()
    curves: tuple[Curve, ...] = ()
    tables: tuple[Table, ...] = field(default=())
    tiles: tuple[Tile, ...] = ()
    origin: str = "predicted, not measured"
