"""The predicted times of a graph, with Inductor alone and as planned: the one source of them.

The log, ``report.txt``, ``domino explain`` in all its forms and the timelines take their numbers
from here. A planner's candidates are compared by estimates made before the graph is partitioned;
as soon as the graph is scheduled, its schedules count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

from domino_compile.ratio import change_text
from domino_compile.report.parts import CandidateReport, ScheduleReport

#: The keys of ``GraphTimes.as_dict``.
TIME_KEYS = (
    *("inductor_ms", "predicted_ms"),
    *("inductor_exposed_ms", "exposed_ms"),
    *("inductor_wire_ms", "wire_ms"),
)


@dataclass(frozen=True)
class StepTimes:
    """The predicted times of one step, in microseconds.

    Attributes:
        step_us: The time of the step.
        exposed_us: How long a collective is on the wire while nothing computes.
        wire_us: How long a collective is on the wire; several at once count once. None if the
            graph is not scheduled yet.
    """

    step_us: float
    exposed_us: float
    wire_us: float | None = None

    @property
    def hidden(self) -> float | None:
        """Return the share of the wire time that is hidden; None if that is unknown."""
        if self.wire_us is None:
            return None
        return max(0.0, 1 - self.exposed_us / self.wire_us) if self.wire_us else 1.0

    def plus(self, other: StepTimes) -> StepTimes:
        """Return the times of this step followed by another one."""
        known = self.wire_us is not None and other.wire_us is not None
        wire_us = (self.wire_us or 0.0) + (other.wire_us or 0.0) if known else None
        return StepTimes(self.step_us + other.step_us, self.exposed_us + other.exposed_us, wire_us)


NO_TIME = StepTimes(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class GraphTimes:
    """The predicted times of a graph's step before and after.

    Attributes:
        inductor: With Inductor alone.
        planned: As it was planned.
    """

    inductor: StepTimes
    planned: StepTimes

    @property
    def change(self) -> str:
        """Return how much faster or slower the plan is, with both times."""
        return change_text(self.inductor.step_us / 1e3, self.planned.step_us / 1e3)

    @property
    def slower(self) -> bool:
        """Return whether the plan is predicted to be slower than Inductor alone."""
        return self.planned.step_us > self.inductor.step_us

    def as_dict(self) -> dict[str, float | None]:
        """Return plain data in milliseconds."""
        pairs = zip(astuple(self.inductor), astuple(self.planned), strict=True)
        values = (value for pair in pairs for value in pair)
        return {
            name: None if value is None else round(value / 1e3, 6)
            for name, value in zip(TIME_KEYS, values, strict=True)
        }


def together(graphs: Iterable[GraphTimes]) -> GraphTimes:
    """Return the times of a step that runs several graphs once each."""
    before = after = NO_TIME
    for times in graphs:
        before, after = before.plus(times.inductor), after.plus(times.planned)
    return GraphTimes(before, after)


def graph_times(
    uncut: ScheduleReport | None,
    schedules: Sequence[ScheduleReport],
    candidates: Sequence[CandidateReport],
    left_alone: bool,
) -> GraphTimes | None:
    """Return the predicted times of a graph; None if nothing is predicted.

    Args:
        uncut: The captured graph with Inductor alone, forward and backward in one.
        schedules: The planned graphs, phase by phase.
        candidates: What the planner compared, if it did.
        left_alone: Whether Inductor alone compiles the graph.
    """
    if uncut is None:
        return None
    before = StepTimes(uncut.predicted_us, uncut.exposed_us, uncut.on_wire_us)
    if left_alone:
        return GraphTimes(before, before)
    planned = _scheduled(uncut, schedules)
    if planned is None:
        chosen = next((c for c in candidates if c.chosen), None)
        if chosen is None:
            return None
        planned = StepTimes(chosen.predicted_us, chosen.exposed_us)
    return GraphTimes(before, planned)


def _scheduled(uncut: ScheduleReport, schedules: Sequence[ScheduleReport]) -> StepTimes | None:
    """Return the sum over all phases; None if one of them is not scheduled yet.

    A phase without collectives is never scheduled: it takes the time it takes with Inductor alone.
    """
    total = NO_TIME
    for entry in schedules:
        total = total.plus(StepTimes(entry.predicted_us, entry.exposed_us, entry.on_wire_us))
    for phase in unscheduled_phases(uncut, schedules):
        steps = [step for step in uncut.steps if step.phase == phase]
        if any(step.kind == "launch" for step in steps):
            return None
        total = total.plus(StepTimes(sum(s.end_us - s.start_us for s in steps), 0.0, 0.0))
    return total if schedules else None


def unscheduled_phases(uncut: ScheduleReport, schedules: Sequence[ScheduleReport]) -> list[str]:
    """Return the phases of the captured graph that no schedule covers."""
    covered = {entry.phase for entry in schedules}
    if "inference" in covered:
        return []
    return [p for p in dict.fromkeys(step.phase for step in uncut.steps) if p and p not in covered]
