"""The report of a compile as plain data: every collective, its treatment, and the schedules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from domino_compile.ratio import change_text
from domino_compile.report.parts import (
    CandidateReport,
    CollectiveReport,
    Join,
    MeasuredReport,
    ScheduleReport,
)
from domino_compile.report.times import GraphTimes, graph_times

#: Raised whenever a field of ``plan.json`` is renamed, removed or changes its meaning.
SCHEMA_VERSION = 3

Status = Literal["sliced", "reordered", "inductor"]


@dataclass
class CompileReport:
    """The report of one captured graph.

    Attributes:
        graph: Its number among the graphs compiled in this process.
        options: The options that differ from the defaults.
        slower: How many times slower than its table the link was assumed to be; 1 unless the graph
            was planned again because the link had changed (option ``watch``).
        device: The device whose rates the predictions use; empty if nothing was predicted.
        link: The name of the link table that they use.
        link_ranks: The number of ranks that the table holds for. It is scaled to other groups.
        status: ``sliced``, ``reordered``, or ``inductor`` (left to Inductor alone).
        reason: Why it is not sliced.
        code: The kind of that reason (``analysis.reasons.Code``).
        advice: How to change this, if there is a known way.
        axis: The inputs where the cut begins, as ``input[dim]``.
        slices: The rows of each slice (expressions for a dynamic batch), or tokens.
        tokens: Whether tokens of a sequence were cut, not rows of a batch.
        columns: The columns of each part, if columns are cut.
        collectives: All collectives of the captured graph.
        joins: Where cut values were joined inside the graph.
        schedules: One schedule per phase.
        uncut: The captured graph before any pass, forward and backward in one: the prediction for
            Inductor alone.
        candidates: The candidates that were compared; empty if the options force the cut.
        measured: The result of ``guard="measure"``, once there is one.
        input_bytes: Parameters and inputs, which the caller holds during the whole step, and the
            copies that CUDA graphs keep of all inputs that are not parameters.
    """

    graph: int
    options: str = "defaults"
    slower: float = 1.0
    device: str = ""
    link: str = ""
    link_ranks: int = 0
    status: Status = "inductor"
    reason: str = ""
    code: str = ""
    advice: str = ""
    axis: list[str] = field(default_factory=list)
    slices: list[str] = field(default_factory=list)
    tokens: bool = False
    columns: list[str] = field(default_factory=list)
    collectives: list[CollectiveReport] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)
    schedules: list[ScheduleReport] = field(default_factory=list)
    uncut: ScheduleReport | None = None
    candidates: list[CandidateReport] = field(default_factory=list)
    measured: MeasuredReport | None = None
    input_bytes: int = 0

    @property
    def step_peak_bytes(self) -> int:
        """Return the estimated peak memory of a step of the planned program, in bytes.

        This is the maximum over its scheduled graphs, and 0 if it is unknown.
        """
        return max((entry.step_peak_bytes for entry in self.schedules), default=0)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON data, as described in ``docs/plan_schema.md``."""
        derived = {"step_peak_bytes": self.step_peak_bytes}
        return {"schema_version": SCHEMA_VERSION, **asdict(self), **derived}

    def to_json(self) -> str:
        """Return indented JSON with a stable order of keys."""
        return json.dumps(self.as_dict(), indent=1, sort_keys=True) + "\n"

    @staticmethod
    def from_dict(data: dict[str, Any]) -> CompileReport:
        """Make a report from the result of ``as_dict``.

        Raises:
            ValueError: The data has another schema version.
        """
        data = dict(data)
        if (version := data.pop("schema_version", None)) != SCHEMA_VERSION:
            raise ValueError(f"plan of schema version {version}, expected {SCHEMA_VERSION}")
        data.pop("step_peak_bytes", None)
        emptied: dict[str, Any] = {"collectives": [], "joins": [], "schedules": [], "uncut": None}
        report = CompileReport(**{**data, **emptied})
        report.collectives = [CollectiveReport(**x) for x in data["collectives"]]
        report.joins = [Join(**x) for x in data["joins"]]
        report.schedules = [ScheduleReport.from_dict(x) for x in data["schedules"]]
        uncut = data.get("uncut")
        report.uncut = None if uncut is None else ScheduleReport.from_dict(uncut)
        report.candidates = [CandidateReport(**x) for x in data.get("candidates", [])]
        measured = data.get("measured")
        report.measured = None if measured is None else MeasuredReport(**measured)
        return report

    def tensor_parallel_groups(self) -> list[str]:
        """Return the sorted names of the process groups whose ranks share the model's layers."""
        return sorted({c.group for c in self.collectives if c.tensor_parallel})

    def collective_order(self, group: str | None = None) -> dict[str, list[str]]:
        """Return what ranks must agree on: the plan, the captured collectives and the launches.

        Args:
            group: The group whose ranks must agree. In a mesh each of these ranks belongs to
                different other groups, so those are numbered in the order in which they occur.
        """
        names: dict[str, str] = {}
        for c in self.collectives:
            number = f"group #{len(names)} of {c.ranks} ranks"
            names.setdefault(c.group, f"group {group}" if c.group == group else number)
        order = {
            "plan": [" and ".join(self.cuts()) or self.status],
            "captured": [
                f"{c.kind} {c.bytes} bytes {names[c.group]} {c.phase} {c.action}"
                for c in self.collectives
            ],
        }
        for schedule in self.schedules:
            order[schedule.phase] = [
                f"{wire.kind} {wire.bytes} bytes {names.get(wire.group, wire.group)}"
                for wire in schedule.wires
            ]
        return order

    def digest(self) -> str:
        """Return a hash of the collective order; it is equal on all ranks of a group."""
        return hashlib.sha256(
            json.dumps(self.collective_order(), sort_keys=True).encode()
        ).hexdigest()

    def cuts(self) -> list[str]:
        """Return what was cut: ``rows 4+4``, ``tokens 4096+4096``, ``columns 512+512``."""
        sizes = {"tokens" if self.tokens else "rows": self.slices, "columns": self.columns}
        return [f"{what} {'+'.join(pieces)}" for what, pieces in sizes.items() if pieces]

    def summary(self) -> str:
        """Return one line for the log: what was done, why not more, and the collectives."""
        counts: dict[str, int] = {}
        for collective in self.collectives:
            counts[collective.action] = counts.get(collective.action, 0) + 1
        actions = ", ".join(f"{n} {action}" for action, n in sorted(counts.items())) or "none"
        outcome = {
            "sliced": f"sliced into {' and '.join(self.cuts())}",
            "reordered": "reordered, not sliced",
            "inductor": "left to Inductor alone",
        }.get(self.status, self.status)
        detail = f" ({self.reason})" if self.reason else ""
        times = self.times
        if times is not None and times.planned != times.inductor:
            detail += f", predicted {times.change}"
        if self.measured is not None:
            times_ms = (self.measured.uncut_ms, self.measured.planned_ms)
            detail += f", measured {change_text(*times_ms)} when cut"
        return f"graph {self.graph}: {outcome}{detail}; collectives: {actions}"

    @property
    def times(self) -> GraphTimes | None:
        """Return the predicted times before and after; None if nothing is predicted."""
        return graph_times(
            self.uncut, self.schedules, self.candidates, left_alone=self.status == "inductor"
        )


_reports: list[CompileReport] = []


def new_report(options: str) -> CompileReport:
    """Begin the report of a compile."""
    report = CompileReport(len(_reports), options)
    _reports.append(report)
    return report


class FurtherReports:
    """The reports of one compile's nested regions, beside the report of the compile."""

    def __init__(self, options: str) -> None:
        self.options = options
        self.made: list[CompileReport] = []

    def begin(self) -> CompileReport:
        """Begin the report of one more region."""
        self.made.append(new_report(self.options))
        return self.made[-1]

    def withdraw(self) -> None:
        """Take all of them back."""
        for report in self.made:
            _withdraw(report)
        self.made.clear()


def _withdraw(report: CompileReport) -> None:
    _reports[:] = [other for other in _reports if other is not report]


@contextmanager
def withdrawn_on_error(report: CompileReport, further: FurtherReports) -> Iterator[None]:
    """Withdraw the reports of a compile that does not finish.

    Dynamo aborts a compile and starts again when it learns something (for example that a float must
    be a constant). Only the last attempt runs.
    """
    try:
        yield
    except BaseException:
        further.withdraw()
        _withdraw(report)
        raise


def reports() -> list[CompileReport]:
    """Return the reports of all graphs compiled in this process, in order."""
    return list(_reports)


def take_reports(known: int) -> list[CompileReport]:
    """Remove and return all reports but the first ``known``: those of a plan that does not run."""
    taken = _reports[known:]
    del _reports[known:]
    return taken


def reset_reports() -> None:
    """Forget all reports; the next graph is number 0."""
    _reports.clear()
