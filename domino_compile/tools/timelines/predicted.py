"""The timelines that the cost model predicts for the compiled graphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from domino_compile.report import CompileReport, ScheduleReport, Step
from domino_compile.report.origin import slice_or_part
from domino_compile.report.times import unscheduled_phases
from domino_compile.tools.timelines.spans import COMPUTE, WIRE, Span, Timeline

BEFORE, AFTER = "Inductor alone", "with domino"
_KINDS = {"matmul": "gemm", "attention": "attention", "fused": "pointwise", "kernel": "other"}
# A step runs its forwards in the order of compiling, its backwards in the opposite one.
_FORWARD = ("forward", "inference")


def predicted(compiled: Sequence[CompileReport], rank: int = 0) -> tuple[Timeline, Timeline]:
    """Return one step of all graphs with Inductor alone, and as planned.

    Graphs without collectives are not in it. A graph that is left to Inductor alone is the same in
    both, and so is a phase without collectives.
    """
    before = [(r, r.uncut) for r in compiled if r.uncut is not None]
    planned = [r for r in compiled if r.status != "inductor" and r.schedules]
    after = [(r, s) for r, s in before if r not in planned]
    after += [(r, s) for r in planned for s in _phases(r) if s.phase in _FORWARD]
    after += [(r, s) for r in reversed(planned) for s in _phases(r) if s.phase not in _FORWARD]
    return _timeline(BEFORE, rank, before), _timeline(AFTER, rank, after)


def _phases(report: CompileReport) -> Iterator[ScheduleReport]:
    """Yield the schedules, and the phases that are never scheduled for want of a collective."""
    yield from report.schedules
    if report.uncut is None or not report.schedules:
        return
    for phase in unscheduled_phases(report.uncut, report.schedules):
        steps = [step for step in report.uncut.steps if step.phase == phase]
        start = steps[0].start_us
        moved = [replace(s, start_us=s.start_us - start, end_us=s.end_us - start) for s in steps]
        took = moved[-1].end_us
        yield ScheduleReport(phase, [], [], took, took, 0, 0, compute_us=took, steps=moved)


def _timeline(
    title: str, rank: int, schedules: Iterable[tuple[CompileReport, ScheduleReport]]
) -> Timeline:
    spans: list[Span] = []
    start = 0.0
    for report, schedule in schedules:
        spans += _spans(report, schedule, start)
        start += schedule.predicted_us
    return Timeline(title, rank, False, False, tuple(sorted(spans, key=lambda s: s.begin_us)))


def _spans(report: CompileReport, schedule: ScheduleReport, start: float) -> Iterator[Span]:
    phase_of = {c.name: c.phase for c in report.collectives}
    origins = {wire.name: wire.origin for wire in schedule.wires}
    phase = "" if schedule.phase == "uncut" else schedule.phase

    def key(launch: str) -> str:
        return f"{report.graph}:{origins.get(launch, launch)}"

    for wire in schedule.wires:
        begin = start + wire.start_us
        yield Span(
            lane=WIRE,
            name=wire.name,
            kind=wire.kind,
            begin_us=begin,
            end_us=begin + wire.wire_us,
            group=wire.group,
            slice=slice_or_part(wire.slice, wire.part),
            phase=phase or phase_of.get(wire.origin, ""),
            collective=key(wire.name),
            source=wire.source,
        )
    for step in schedule.steps:
        if step.kind != "launch" and step.end_us > step.start_us:
            collective = key(step.collective) if step.kind == "wait" else ""
            yield _work(step, start, phase or step.phase, collective)


def _work(step: Step, start: float, phase: str, collective: str) -> Span:
    name = step.name if step.kernels == 1 else f"{step.kernels} kernels, the last {step.name}"
    return Span(
        lane=COMPUTE,
        name=name,
        kind=_KINDS.get(step.kind, "wait"),
        begin_us=start + step.start_us,
        end_us=start + step.end_us,
        slice=slice_or_part(step.slice, step.part),
        phase=phase,
        collective=collective,
        source=step.source,
    )
