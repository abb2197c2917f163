"""The parts of a compile's report as plain data: collectives, schedules, candidates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

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
        phase: ``forward`` or ``backward`` in the captured graph, which has both; otherwise empty.
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
    phase: str = ""

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
        transport: Which collectives copy engines carry, and why NCCL carries the others; empty if
            the option ``transport`` asks for NCCL.
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
    transport: str = ""

    @property
    def on_wire_us(self) -> float:
        """Return how long a collective is on the wire; several at once count once."""
        from domino_compile.cost.intervals import union_us  # loads torch, which may be loading us

        return union_us((wire.start_us, wire.start_us + wire.wire_us) for wire in self.wires)

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
