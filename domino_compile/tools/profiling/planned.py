"""Name the spans of measured timelines by the plan: captured collective and slice of each flight.

A profiler sees kernels and flights, but not what they were in the captured graph. If a step has
exactly the collectives of its graphs' plans, with the same kinds in the same order in every process
group (or a multiple of them, for micro-batches), they are the same; so are matrix products. Nothing
is guessed if the counts differ, or if flights of several groups overlap and do not name their
group: flights of one group begin in the order of their launches, those of two groups need not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, pairwise

from domino_compile.report import CompileReport, ScheduleReport, WireReport
from domino_compile.report.origin import slice_or_part
from domino_compile.tools.bench.kernels import STREAM
from domino_compile.tools.profiling.trace import collective_name
from domino_compile.tools.timelines import Span, Timeline
from domino_compile.tools.timelines.spans import COMPUTE, STILL, WIRE

_FORWARD = ("forward", "inference")
#: Work other than products and attention.
KERNELS = "kernels"


@dataclass(frozen=True)
class _Planned:
    """What the plan knows about one flight or one matrix product."""

    kind: str
    phase: str
    source: str
    slice: int | None = None
    collective: str = ""
    group: str = ""


#: The place of a span, and what it is.
_Pair = tuple[int, _Planned]


def named_by_plan(
    timeline: Timeline, compiled: Sequence[CompileReport], uncut: bool = False
) -> Timeline:
    """Return the timeline, its collectives and matrix products named as far as the plans allow.

    Args:
        timeline: A measured timeline of one step.
        compiled: The reports of the graphs that ran in it, in the order of compiling.
        uncut: Whether it is of the program as it was given, without this package.
    """
    schedules = list(_uncut(compiled) if uncut else _planned(compiled))
    flights = [p for report, s in schedules for p in _flights(report, s, uncut)]
    work = [p for _, s in schedules for p in _work(s, uncut)]
    spans = list(timeline.spans)
    _name(spans, _flown(spans, flights))
    for kind in ("gemm", "attention"):
        places = [i for i, s in enumerate(spans) if s.lane == COMPUTE and s.kind == kind]
        _name(spans, _paired(places, [plan for plan in work if plan.kind == kind]))
    _name_between(spans, work)
    _name_waits(spans)
    return replace(timeline, spans=tuple(spans))


def _planned(
    compiled: Sequence[CompileReport],
) -> Iterator[tuple[CompileReport, ScheduleReport]]:
    """Yield a step's forwards in the order of compiling, its backwards in the opposite one."""
    yield from ((r, s) for r in compiled for s in r.schedules if s.phase in _FORWARD)
    yield from ((r, s) for r in reversed(compiled) for s in r.schedules if s.phase not in _FORWARD)


def _uncut(compiled: Sequence[CompileReport]) -> Iterator[tuple[CompileReport, ScheduleReport]]:
    """Yield the schedule if there is one graph: the phases of several cannot be told apart."""
    schedules = [(r, r.uncut) for r in compiled if r.uncut is not None]
    if len(schedules) == 1:
        yield schedules[0]


def _flights(report: CompileReport, schedule: ScheduleReport, uncut: bool) -> Iterator[_Planned]:
    phases = {entry.name: entry.phase for entry in report.collectives}

    def phase(wire: WireReport) -> str:
        return phases.get(wire.origin or wire.name, "") if uncut else schedule.phase

    for wire in schedule.wires:
        yield _Planned(
            collective_name(wire.kind),
            phase(wire),
            wire.source,
            slice_or_part(wire.slice, wire.part),
            f"{report.graph}:{wire.origin or wire.name}",
            wire.group,
        )


def _work(schedule: ScheduleReport, uncut: bool) -> Iterator[_Planned]:
    """Yield the work of a schedule in order; ``kernels`` are all but products and attention."""
    kinds = {"matmul": "gemm", "attention": "attention", "fused": KERNELS, "kernel": KERNELS}
    for step in schedule.steps:
        if step.kind in kinds:
            piece = slice_or_part(step.slice, step.part)
            phase = step.phase if uncut else schedule.phase
            yield _Planned(kinds[step.kind], phase, step.source, piece)


def _name_between(spans: list[Span], work: Sequence[_Planned]) -> None:
    """Name the kernels between two named products, if the plan has one slice only between them."""
    anchors = [plan for plan in work if plan.kind != KERNELS]
    named = [
        place
        for place, span in enumerate(spans)
        if span.lane == COMPUTE and span.kind in ("gemm", "attention")
    ]
    observed = [_Planned(spans[p].kind, spans[p].phase, "", spans[p].slice) for p in named]
    if not anchors or len(named) % len(anchors):
        return
    if any(
        (a.kind, a.slice) != (f.kind, f.slice)
        for a, f in zip(cycle(anchors), observed, strict=False)
    ):
        return  # products and attention are not in the planned order
    between = list(_between(work))
    for n, (first, last) in enumerate(pairwise(named)):
        plans = between[n % len(anchors)]
        if len({(plan.slice, plan.phase) for plan in plans}) != 1:
            continue
        for place in range(first + 1, last):
            span = spans[place]
            if span.lane == COMPUTE and span.kind not in STILL and span.slice is None:
                spans[place] = replace(span, slice=plans[0].slice, phase=plans[0].phase)


def _between(work: Sequence[_Planned]) -> Iterator[list[_Planned]]:
    """Yield the work around each gap behind a product or attention: both ends, and the kernels."""
    anchors = [place for place, plan in enumerate(work) if plan.kind != KERNELS]
    for first, last in pairwise(anchors):
        kernels = list(work[first + 1 : last])
        yield kernels or [work[first], work[last]]
    yield []  # behind the last one


def _flown(spans: Sequence[Span], planned: Sequence[_Planned]) -> list[_Pair]:
    """Return the flights, each with its plan; none if it is not certain which is which."""
    places = [place for place, span in enumerate(spans) if span.lane == WIRE]
    told, groups = {spans[place].group for place in places}, {plan.group for plan in planned}
    if told == groups:
        return _by_group(spans, places, planned)
    if any(map(_is_group, told)) or len(told) > len(groups):
        return []  # some are of groups that no plan has
    if len(groups) > 1 and _overlap([spans[place] for place in places]):
        return []
    return _paired(places, planned)


def _by_group(
    spans: Sequence[Span], places: Sequence[int], planned: Sequence[_Planned]
) -> list[_Pair]:
    pairs: list[_Pair] = []
    repeats = set()
    for group in sorted({plan.group for plan in planned}):
        mine = [place for place in places if spans[place].group == group]
        plans = [plan for plan in planned if plan.group == group]
        repeats.add(len(mine) / len(plans))
        pairs += _paired(mine, plans)
    return pairs if len(repeats) == 1 else []


def _is_group(told: str) -> bool:
    """Return whether a span tells its group; else it tells nothing, or the stream it ran on."""
    return bool(told) and not told.startswith(STREAM)


def _overlap(flights: Sequence[Span]) -> bool:
    return any(b.begin_us < a.end_us for a, b in pairwise(flights))


def _paired(places: Sequence[int], planned: Sequence[_Planned]) -> list[_Pair]:
    """Pair places and plans in order; none if there is not a whole number of times the plans."""
    if not planned or len(places) % len(planned):
        return []
    return [(place, planned[n % len(planned)]) for n, place in enumerate(places)]


def _name(spans: list[Span], pairs: Sequence[_Pair]) -> None:
    """Name spans in place if all have the planned kinds."""
    if any(spans[place].kind != plan.kind for place, plan in pairs):
        return
    for place, plan in pairs:
        spans[place] = replace(
            spans[place],
            group=spans[place].group or plan.group,
            slice=plan.slice,
            phase=plan.phase,
            collective=plan.collective,
            source=plan.source,
        )


def _name_waits(spans: list[Span]) -> None:
    """Name each wait after the flight it waits for."""
    flights = {span.name: span for span in spans if span.lane == WIRE}
    for place, span in enumerate(spans):
        flight = flights.get(span.name) if span.kind in STILL else None
        if flight is not None:
            spans[place] = replace(
                span, collective=flight.collective, slice=flight.slice, phase=flight.phase
            )
