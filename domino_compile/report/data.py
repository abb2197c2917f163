"""The report of a compile as plain data: every collective, its treatment, and the schedules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

#: Raised whenever a field of ``plan.json`` is renamed, removed or changes its meaning.
SCHEMA_VERSION = 3

Status = Literal["sliced", "reordered", "inductor"]
Action = Literal["sliced", "merged", "reordered", "left alone"]


@dataclass
class CollectiveReport:
    """One collective of the captured graph.

    Attributes:
        name: The node's name in the captured graph.
        kind: ``all_reduce``, ``all_gather_into_tensor``, ``reduce_scatter_tensor``, ...
        group: The process group's name.
        ranks: The number of ranks in the group.
        bytes: The payload of the uncut collective (see ``collectives.Site``).
        source: The user's line.
        phase: ``forward`` or ``backward``.
        action: ``sliced``, ``merged``, ``reordered`` or ``left alone``.
        reason: Why this collective was not sliced, if the reason is not that of the whole graph.
        module: The path of its module, if it is in one.
        tensor_parallel: Whether compute waits for it. False for a reduction of gradients over
            data-parallel ranks.
        code: The kind of the reason (``analysis.reasons.Code``).
        advice: How to change this, if there is a known way.
    """

    name: str
    kind: str
    group: str
    ranks: int
    bytes: int
    source: str
    phase: str
    action: Action
    reason: str = ""
    module: str = ""
    tensor_parallel: bool = True
    code: str = ""
    advice: str = ""


@dataclass
class WireReport:
    """One collective of a scheduled graph, in launch order, with predicted times.

    Attributes:
        name: The node of its launch.
        kind: As in ``CollectiveReport``.
        group: The process group's name.
        slice: The slice of the rows that it belongs to; ``None`` if it is whole.
        part: The part of the columns that it belongs to; ``None`` if columns are not cut.
        bytes: Its payload.
        start_us: When it goes on the wire (later than its launch if the group's wire is busy).
        wire_us: How long it is on the wire.
        exposed_us: The share of ``wire_us`` during which nothing computes.
        hidden_under: The matrix products and attention that compute during that time.
        hidden_under_fused: How many other kernels, mostly fused ones, compute during that time.
        source: The module or the user's line.
        origin: The collective of the captured graph that it comes from.
    """

    name: str
    kind: str
    group: str
    slice: int | None
    bytes: int
    wire_us: float
    exposed_us: float
    start_us: float = 0.0
    part: int | None = None
    hidden_under: list[str] = field(default_factory=list)
    hidden_under_fused: int = 0
    source: str = ""
    origin: str = ""


@dataclass
class Step:
    """One step of a schedule, with predicted times from the start of the graph.

    Attributes:
        kind: ``launch``, ``wait``, ``matmul``, ``attention``, ``kernel`` (another operation that is
            never fused) or ``fused`` (adjacent kernels of anything else).
        name: The node; for ``fused`` the last one.
        slice: The slice of the rows that it belongs to; ``None`` for whole work.
        part: The part of the columns that it belongs to; ``None`` if columns are not cut.
        start_us: When it starts.
        end_us: When it ends. A launch takes no time; a wait lasts as long as compute idles.
        kernels: The number of kernels.
        collective: For a launch or a wait, the node of the launch.
        source: The module or the user's line.
    """

    kind: str
    name: str
    slice: int | None
    start_us: float
    end_us: float
    kernels: int = 1
    collective: str = ""
    source: str = ""
    part: int | None = None

    @property
    def piece(self) -> dict[str, int | None]:
        """Return the slice and the part by name."""
        return {"slice": self.slice, "part": self.part}


@dataclass
class ScheduleReport:
    """The schedule of one graph (forward, backward or inference), with predicted times.

    Attributes:
        events: Launches, waits, matrix products and attention, as ``kind name``, in order.
        steps: The same with times, and with fused kernels.
        wires: The collectives in launch order.
        predicted_before_us: The predicted time before scheduling.
        predicted_us: The predicted time in the planned order.
        compute_us: How long compute is busy.
        exposed_us: How long compute idles because of collectives.
        exposed_before_us: The same before scheduling.
        peak_bytes_before: The estimated peak of live memory before scheduling.
        peak_bytes: The estimated peak of live memory in the planned order.
        pinned: The number of ordering dependencies that were added.
        configured: The matrix products that are configured for the multiprocessors a collective
            leaves, by name, each with the share of its time (in quarters) that it runs beside one.
        step_peak_bytes: The estimated peak of all memory of a step while this graph runs in the
            planned order: parameters, inputs, tensors saved for backward, gradients and the rest. 0
            if unknown.
    """

    phase: str
    events: list[str]
    wires: list[WireReport]
    predicted_before_us: float
    predicted_us: float
    peak_bytes_before: int
    peak_bytes: int
    pinned: int = 0
    compute_us: float = 0.0
    exposed_us: float = 0.0
    exposed_before_us: float = 0.0
    steps: list[Step] = field(default_factory=list)
    configured: dict[str, float] = field(default_factory=dict)
    step_peak_bytes: int = 0

    @staticmethod
    def from_dict(data: dict[str, Any]) -> ScheduleReport:
        """Make a report from the result of ``dataclasses.asdict``."""
        wires = [WireReport(**x) for x in data["wires"]]
        steps = [Step(**x) for x in data["steps"]]
        return ScheduleReport(**{**data, "wires": wires, "steps": steps})


@dataclass
class Join:
    """A place where a cut value was made whole inside the graph."""

    value: str
    needed_by: str
    reason: str
    source: str


@dataclass
class CandidateReport:
    """One of the ways to treat the graph that were compared, with predictions.

    Attributes:
        split: ``inductor`` (left alone), ``reordered``, ``rows``, ``tokens``, ``columns``,
            ``rows and columns`` or ``tokens and columns``.
        name: The cut in words.
        slices: The rows or tokens of each slice; empty if neither is cut.
        columns: The number of column parts; 1 if columns are not cut.
        at: The collectives in front of which columns are cut, by name; empty for all.
        predicted_us: The time of a step, forward and backward together.
        exposed_us: The exposed communication in that time; 0 if ``estimated``.
        peak_bytes: The estimated peak of live memory, before it is decided what backward
            recomputes; only good for comparing candidates. 0 if ``estimated``.
        estimated: Whether the time is a rough estimate that was enough to rule the candidate out.
        chosen: Whether this candidate was compiled.
        reason: Why it was not chosen.
    """

    split: str
    name: str
    slices: list[int]
    columns: int
    predicted_us: float
    exposed_us: float
    peak_bytes: int
    at: list[str] = field(default_factory=list)
    estimated: bool = False
    chosen: bool = False
    reason: str = ""


@dataclass
class MeasuredReport:
    """The result of ``guard="measure"``. Nothing else in a report is measured.

    Attributes:
        kept: The program that runs from then on: ``planned`` or ``uncut`` (Inductor alone).
        planned_ms: The slowest rank's median step time with the planned program.
        uncut_ms: The same with the uncut program.
        rounds: The number of timed steps per program.
    """

    kept: str
    planned_ms: float
    uncut_ms: float
    rounds: int


@dataclass
class CompileReport:
    """The report of one captured graph.

    Attributes:
        graph: Its number among the graphs compiled in this process.
        options: The options that differ from the defaults.
        slower: How many times slower than its table the link was assumed to be; 1 unless the graph
            was planned again because the link had changed (option ``watch``).
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
        detail = f" ({self.reason})" if self.reason else self._prediction()
        if self.measured is not None:
            planned, uncut = self.measured.planned_ms, self.measured.uncut_ms
            detail += f", measured {planned:.3g} ms a step against {uncut:.3g} ms uncut"
        return f"graph {self.graph}: {outcome}{detail}; collectives: {actions}"

    def _prediction(self) -> str:
        """Compare the chosen candidate with Inductor alone, if there was a choice."""
        chosen = next((c for c in self.candidates if c.chosen), None)
        if chosen is None:
            return ""
        uncut = self.candidates[0].predicted_us
        return f", predicted {chosen.predicted_us / 1e3:.3g} ms against {uncut / 1e3:.3g} ms uncut"


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


def reset_reports() -> None:
    """Forget all reports; the next graph is number 0."""
    _reports.clear()
