"""What a compile did: every collective and what became of it, and the schedules. Plain data."""

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
        name: the node's name in the captured graph.
        kind: ``all_reduce``, ``all_gather_into_tensor``, ``reduce_scatter_tensor``, ...
        group: the process group's name.
        ranks: its number of ranks.
        bytes: payload of the uncut collective (see ``collectives.Site``).
        source: the user's line.
        phase: ``forward`` or ``backward``.
        action: ``sliced``, ``merged``, ``reordered`` or ``left alone``.
        reason: why it was not sliced, if that is a reason of its own.
        module: the path of the module that it is in, if it is in one.
        tensor_parallel: whether compute waits for it; false for a reduction of gradients over
            data-parallel ranks.
        code: the kind of the reason (``analysis.reasons.Code``).
        advice: what would change it, where something is known to.
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
        name: its node.
        kind: as in ``CollectiveReport``.
        group: the process group's name.
        slice: the slice of the rows it belongs to, ``None`` for a whole one.
        part: the part of the columns it belongs to, likewise.
        bytes: its payload.
        start_us: when it goes on the wire (after its launch if the group's wire is busy).
        wire_us: how long it is on the wire.
        exposed_us: how long of that nothing computes.
        hidden_under: the matrix products and attention that compute meanwhile.
        hidden_under_fused: how many fused kernels and others compute meanwhile.
        source: the module or the user's line.
        origin: the collective of the captured graph that it is, or is a slice of.
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
            never fused) or ``fused`` (kernels of anything else that stand next to each other).
        name: the node; of ``fused`` the last one.
        slice: the slice of the rows it belongs to, ``None`` for whole work.
        part: the part of the columns it belongs to, likewise.
        start_us: when it starts.
        end_us: when it ends; a launch takes no time, a wait as long as compute stands still.
        kernels: how many kernels it stands for.
        collective: the launch's node, of a launch or wait.
        source: the module or the user's line.
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
        """Its slice and its part."""
        return {"slice": self.slice, "part": self.part}


@dataclass
class ScheduleReport:
    """The schedule of one graph (forward, backward or inference).

    Attributes:
        events: launches, waits, matrix products and attention, as ``kind name``, in order.
        steps: the same with times, and fused kernels.
        wires: the collectives in launch order.
        predicted_before_us: the cost model's time in the order found.
        predicted_us: its time in the planned order.
        compute_us: how long compute is busy.
        exposed_us: how long compute stands still for collectives.
        exposed_before_us: the same in the order found.
        peak_bytes_before: estimated peak of live memory in the order found.
        peak_bytes: in the planned order.
        pinned: how many ordering dependencies were added.
        configured: by name, for which part of its time (in quarters) a matrix product is beside a
            collective, and configured for the multiprocessors that it leaves.
        step_peak_bytes: estimated peak of all memory of a step while this graph runs in the planned
            order: parameters, inputs, what backward needs, gradients and the rest. 0: unknown.
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
        """The inverse of ``dataclasses.asdict``."""
        wires = [WireReport(**x) for x in data["wires"]]
        steps = [Step(**x) for x in data["steps"]]
        return ScheduleReport(**{**data, "wires": wires, "steps": steps})


@dataclass
class Join:
    """A cut value that was made whole inside the graph."""

    value: str
    needed_by: str
    reason: str
    source: str


@dataclass
class CandidateReport:
    """One way to treat the graph that was compared with others, with predictions.

    Attributes:
        split: ``inductor`` (left alone), ``reordered``, ``rows``, ``columns`` or ``rows and
            columns``.
        name: what is cut into how much, in words.
        slices: rows of each slice; empty where rows are not cut.
        columns: parts of the columns; 1 where they are not cut.
        at: the collectives in front of which columns are cut, by name; empty for all.
        predicted_us: time of a step, forward and backward together.
        exposed_us: of that, while nothing computes; 0 where ``estimated``.
        peak_bytes: estimated peak of live memory, before it is decided what backward computes anew;
            comparable between candidates only. 0 where ``estimated``.
        estimated: whether the time is only an estimate that was enough to leave it out.
        chosen: whether it is what was compiled.
        reason: why it was not chosen.
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
    """What ``guard="measure"`` found; nothing else in a report is measured.

    Attributes:
        kept: ``planned`` or ``uncut`` (Inductor alone): the program that runs from then on.
        planned_ms: the median time of a step with the planned program, of the slowest rank.
        uncut_ms: with the uncut program.
        rounds: timed steps of each.
    """

    kept: str
    planned_ms: float
    uncut_ms: float
    rounds: int


@dataclass
class CompileReport:
    """One captured graph.

    Attributes:
        graph: its number among the graphs compiled in this process.
        options: the options that differ from the defaults.
        slower: how many times their link table's time collectives were taken to need; 1 unless the
            graph was planned again for a link that had changed (option ``watch``).
        status: ``sliced``, ``reordered``, or ``inductor`` (left to Inductor alone).
        reason: why it is not sliced.
        code: the kind of that reason (``analysis.reasons.Code``).
        advice: what would change it, where something is known to.
        axis: the inputs where the cut begins, as ``input[dim]``.
        slices: rows of each slice (expressions for a dynamic batch).
        columns: columns of each part, where columns are cut.
        collectives: every collective found.
        joins: where cut values were joined inside the graph.
        schedules: per phase.
        uncut: the captured graph as it was found, forward and backward in one, before any pass:
            what is predicted without this package.
        candidates: what was compared to choose the cut; empty where the options force it.
        measured: of the option ``guard="measure"``, once it has been decided.
        input_bytes: parameters and inputs, which the caller holds during the whole step, and the
            copies that CUDA graphs keep of those inputs that are no parameters.
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
        """Estimated peak memory of a step of the planned program, in bytes; 0 if unknown.

        The largest of its scheduled graphs.
        """
        return max((entry.step_peak_bytes for entry in self.schedules), default=0)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON data, as described in ``docs/plan_schema.md``."""
        derived = {"step_peak_bytes": self.step_peak_bytes}
        return {"schema_version": SCHEMA_VERSION, **asdict(self), **derived}

    def to_json(self) -> str:
        """Indented JSON with stable key order."""
        return json.dumps(self.as_dict(), indent=1, sort_keys=True) + "\n"

    @staticmethod
    def from_dict(data: dict[str, Any]) -> CompileReport:
        """The inverse of ``as_dict``.

        Raises:
            ValueError: the data have another schema version.
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
        """The process groups whose ranks compute the model together, by name, in order."""
        return sorted({c.group for c in self.collectives if c.tensor_parallel})

    def collective_order(self, group: str | None = None) -> dict[str, list[str]]:
        """What ranks must agree on: the plan, the collectives captured, each phase's launches.

        Args:
            group: the group whose ranks agree. Of a mesh's other groups each rank is in one of its
                own: they are numbered as they occur.
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
        """A hash of the collective order, equal on all ranks of a group."""
        return hashlib.sha256(
            json.dumps(self.collective_order(), sort_keys=True).encode()
        ).hexdigest()

    def cuts(self) -> list[str]:
        """What was cut into how many: ``rows 4+4``, ``columns 512+512``."""
        found = {"rows": self.slices, "columns": self.columns}
        return [f"{what} {'+'.join(parts)}" for what, parts in found.items() if parts]

    def summary(self) -> str:
        """One line for the log: what was done, why not more, what became of each collective."""
        counts: dict[str, int] = {}
        for collective in self.collectives:
            counts[collective.action] = counts.get(collective.action, 0) + 1
        found = ", ".join(f"{n} {action}" for action, n in sorted(counts.items())) or "none"
        outcome = {
            "sliced": f"sliced into {' and '.join(self.cuts())}",
            "reordered": "reordered, not sliced",
            "inductor": "left to Inductor alone",
        }.get(self.status, self.status)
        detail = f" ({self.reason})" if self.reason else self._prediction()
        if self.measured is not None:
            planned, uncut = self.measured.planned_ms, self.measured.uncut_ms
            detail += f", measured {planned:.3g} ms a step against {uncut:.3g} ms uncut"
        return f"graph {self.graph}: {outcome}{detail}; collectives: {found}"

    def _prediction(self) -> str:
        """The chosen candidate against Inductor alone, where there was a choice."""
        chosen = next((c for c in self.candidates if c.chosen), None)
        if chosen is None:
            return ""
        alone = self.candidates[0].predicted_us
        return f", predicted {chosen.predicted_us / 1e3:.3g} ms against {alone / 1e3:.3g} ms uncut"


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
    """Take reports back if the compile they are about does not come to an end.

    Dynamo interrupts a compile and starts it again where it learns something (that a float must be
    a constant, for one); only the last try is what runs.
    """
    try:
        yield
    except BaseException:
        further.withdraw()
        _withdraw(report)
        raise


def reports() -> list[CompileReport]:
    """The reports of all graphs compiled in this process, in order."""
    return list(_reports)


def reset_reports() -> None:
    """Forget all reports; the next graph is number 0."""
    _reports.clear()
