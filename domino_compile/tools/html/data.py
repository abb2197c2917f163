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
        number: the number of the compiled graph.
        summary: one line that says what was done.
        before: the captured operations.
        after: the planned operations.
    """

    number: int
    summary: str
    before: dict[str, Rows]
    after: dict[str, Rows]


@dataclass(frozen=True)
class Curve:
    """One training run.

    Attributes:
        name: for people, such as ``Inductor alone, run 1``.
        losses: the loss of each step.
        gradient_norms: the gradient norm of each step.
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
        value: the number, such as ``1.24x faster``.
        label: what it is.
        note: a detail below it.
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
        title: the title of the report.
        facts: names and values: the command, versions, the link.
        explanation: one row for each collective.
        verdict: paragraphs at the top of the page.
        timelines: steps that share one time axis, in drawing order.
        graphs: the compiled graphs.
        curves: training runs.
        tables: other numbers.
        tiles: the large numbers at the top.
        origin: whether the times are predicted, or measured on a real or an emulated link.
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
