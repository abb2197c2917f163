"""What a compile did: every collective and what became of it, and the schedules. Plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class CollectiveReport:
    """One collective of the captured graph.

    Attributes:
        name: the node's name in the captured graph.
        kind: ``all_reduce``, ``all_gather_into_tensor``, ``reduce_scatter_tensor``, ...
        group: the process group's name.
        ranks: its number of ranks.
        bytes: payload of the uncut collective (see ``collectives.Site``).
        source: the user's line.
        phase: ``forward`` or ``backward``.
        action: ``sliced``, ``merged``, ``reordered`` or ``left alone``.
        reason: why, where it was not sliced.
    """

    name: str
    kind: str
    group: str
    ranks: int
    bytes: int
    source: str
    phase: str
    action: str
    reason: str = ""


@dataclass
class WireReport:
    """One collective of a scheduled graph, in emitted order, with predicted times."""

    name: str
    kind: str
    group: str
    slice: int | None
    bytes: int
    wire_us: float
    exposed_us: float
    hidden_under: list[str] = field(default_factory=list)


@dataclass
class ScheduleReport:
    """The schedule of one graph (forward, backward or inference).

    Attributes:
        events: launches, waits, matrix products and attention, as ``kind name``, in order.
        predicted_before_us: the cost model's time in the order found.
        predicted_us: its time in the planned order.
        peak_bytes_before: estimated peak of live memory in the order found.
        peak_bytes: in the planned order.
        pinned: how many ordering dependencies were added.
    """

    phase: str
    events: list[str]
    wires: list[WireReport]
    predicted_before_us: float
    predicted_us: float
    peak_bytes_before: int
    peak_bytes: int
    pinned: int = 0


@dataclass
class Join:
    """A cut value that was made whole inside the graph."""

    value: str
    needed_by: str
    reason: str
    source: str


@dataclass
class CompileReport:
    """One captured graph.

    Attributes:
        graph: its number among the graphs compiled in this process.
        options: the options that differ from the defaults.
        status: ``sliced``, ``reordered``, ``inductor`` (left to Inductor alone) or ``cached``.
        reason: why it is not sliced.
        axis: the inputs where the cut begins, as ``input[dim]``.
        slices: rows of each slice (expressions for a dynamic batch).
        collectives: every collective found.
        joins: where cut values were joined inside the graph.
        schedules: per phase.
    """

    graph: int
    options: str = "defaults"
    status: str = "inductor"
    reason: str = ""
    axis: list[str] = field(default_factory=list)
    slices: list[str] = field(default_factory=list)
    collectives: list[CollectiveReport] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)
    schedules: list[ScheduleReport] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON data."""
        return asdict(self)

    def to_json(self) -> str:
        """Indented JSON with stable key order."""
        return json.dumps(self.as_dict(), indent=1, sort_keys=True) + "\n"

    @staticmethod
    def from_dict(data: dict[str, Any]) -> CompileReport:
        """The inverse of ``as_dict``."""
        report = CompileReport(**{**data, "collectives": [], "joins": [], "schedules": []})
        report.collectives = [CollectiveReport(**x) for x in data["collectives"]]
        report.joins = [Join(**x) for x in data["joins"]]
        for entry in data["schedules"]:
            wires = [WireReport(**x) for x in entry["wires"]]
            report.schedules.append(ScheduleReport(**{**entry, "wires": wires}))
        return report

    def collective_order(self) -> dict[str, list[str]]:
        """What ranks must agree on: the collectives captured, and each phase's in launch order."""
        order = {
            "captured": [
                f"{c.kind} {c.bytes} bytes group {c.group} {c.phase} {c.action}"
                for c in self.collectives
            ]
        }
        for schedule in self.schedules:
            order[schedule.phase] = [
                f"{wire.kind} {wire.bytes} bytes group {wire.group}" for wire in schedule.wires
            ]
        return order

    def digest(self) -> str:
        """A hash of the collective order, equal on all ranks of a group."""
        return hashlib.sha256(json.dumps(self.collective_order(), sort_keys=True).encode()).hexdigest()

    def summary(self) -> str:
        """One line for the log."""
        counts: dict[str, int] = {}
        for collective in self.collectives:
            counts[collective.action] = counts.get(collective.action, 0) + 1
        found = ", ".join(f"{n} {action}" for action, n in sorted(counts.items())) or "none"
        detail = f" ({self.reason})" if self.reason else ""
        rows = f", rows {'+'.join(self.slices)}" if self.slices else ""
        return f"graph {self.graph}: {self.status}{detail}{rows}; collectives: {found}"


_reports: list[CompileReport] = []


def new_report(options: str) -> CompileReport:
    """Begin the report of a compile."""
    report = CompileReport(len(_reports), options)
    _reports.append(report)
    return report


def reports() -> list[CompileReport]:
    """The reports of all graphs compiled in this process, in order."""
    return list(_reports)


def reset_reports() -> None:
    """Forget all reports; the next graph is number 0."""
    _reports.clear()


def table(rows: Iterable[CollectiveReport]) -> str:
    """The collectives as text, aligned."""
    header = ("kind", "group", "ranks", "bytes", "phase", "action", "source", "reason")
    lines = [header] + [
        (r.kind, r.group, str(r.ranks), str(r.bytes), r.phase, r.action, r.source, r.reason)
        for r in rows
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
