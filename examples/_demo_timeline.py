"""Draws one measured step of each variant as a timeline, and the demo's report (emulated link).

The page and the picture need the extra ``report``.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from _demo_config import VARIANTS
from _demo_display import TITLES

from domino_compile.report import CompileReport
from domino_compile.tools.timelines import Span, Timeline, predicted
from domino_compile.tools.timelines.spans import STILL

Interval = tuple[float, float]  # begin and end, microseconds from the start of the step
SHORTEST_WAIT_US = 500  # that is drawn; a wait that finds its collective complete takes 50


def timelines(rank: dict[str, Any], result: dict[str, Any], number: int = 0) -> list[Timeline]:
    """Return the measured step closest to the median, per variant, for one rank."""
    planned = [w for r in rank["reports"] for s in _ordered(r["schedules"]) for w in s["wires"]]
    found = []
    for name in VARIANTS:
        median_s = result[f"step_ms_{name}"] / 1e3
        steps = rank["steps"][name]
        step = min(steps, key=lambda s: abs(s["end_s"] - s["start_s"] - median_s))
        spans = _spans(step, planned if name == "domino" else [])
        if name == "domino":
            spans = in_slices(spans, [CompileReport.from_dict(r) for r in rank["reports"]])
        found.append(Timeline(TITLES[name], number, True, True, spans))
    return found


def in_slices(spans: tuple[Span, ...], reports: Sequence[CompileReport]) -> tuple[Span, ...]:
    """Divide what computed among the slices, as the plan does between the same two launches.

    The measured step knows when collectives were launched and waited for, but not its kernels.
    Between two launches it runs what the plan puts there: each piece gets as large a share of the
    measured time as it has of the predicted time.
    """
    plan = predicted(reports)[1].spans
    ours = [s for s in spans if s.kind == "compute" and s.phase != "update"]
    theirs = [s for s in plan if s.lane == "compute" and s.kind not in STILL]
    flights = [[s for s in found if s.lane == "wire"] for found in (plan, spans)]
    if not theirs or len(flights[0]) != len(flights[1]):
        return spans
    marks = [(f.begin_us, o.begin_us) for f, o in zip(*flights, strict=True)]
    for phase in ("forward", "backward"):
        ends = [max((s.end_us for s in all_ if s.phase == phase), default=0.0)
                for all_ in (theirs, ours)]  # fmt: skip
        marks.append((ends[0], ends[1]))
    points = [(0.0, 0.0)]
    for planned, measured in sorted((_work(theirs, a), _work(ours, b)) for a, b in marks):
        if planned > points[-1][0] and measured > points[-1][1]:
            points.append((planned, measured))
    rest = [s for s in spans if s not in ours]
    return tuple(sorted([*rest, *_divided(theirs, ours, points)], key=lambda s: s.begin_us))


def _work(spans: Sequence[Span], until: float) -> float:
    """How long the spans compute until a time."""
    return sum(max(0.0, min(s.end_us, until) - s.begin_us) for s in spans)


def _divided(
    theirs: Sequence[Span], ours: Sequence[Span], points: Sequence[Interval]
) -> Iterator[Span]:
    """What computed, in pieces; ``points`` are planned and measured work at the same launches."""
    done = 0.0
    edges: list[tuple[float, int | None]] = []  # measured work at the end of each piece, its slice
    for slice_, pieces in itertools.groupby(theirs, key=lambda s: s.slice):
        done += sum(s.end_us - s.begin_us for s in pieces)
        edges.append((_at(points, done), slice_))
    edges[-1] = (float("inf"), edges[-1][1])
    worked = 0.0
    for span in ours:
        at, until = worked, worked + span.end_us - span.begin_us
        for edge, slice_ in edges:
            end = min(edge, until)
            if end > at:
                begin_us, end_us = (span.begin_us + x - worked for x in (at, end))
                yield replace(span, begin_us=begin_us, end_us=end_us, slice=slice_)
                at = end
        worked = until


def _at(points: Sequence[Interval], planned: float) -> float:
    """The measured work that belongs to planned work, between the points around it."""
    position = min(max(bisect_right([p for p, _ in points], planned), 1), len(points) - 1)
    (a, b), (c, d) = points[position - 1], points[position]
    return b + (d - b) * (planned - a) / (c - a)


def _ordered(schedules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(schedules, key=lambda s: s["phase"] == "backward")


def _spans(step: dict[str, Any], planned: list[dict[str, Any]]) -> tuple[Span, ...]:
    """What computes, what waits, and what is on the wire."""
    start = step["start_s"]

    def us(seconds: float) -> float:
        return float((seconds - start) * 1e6)

    marks = [0.0, us(step["backward_s"]), us(step["update_s"]), us(step["end_s"])]
    phases = dict(zip(("forward", "backward", "update"), itertools.pairwise(marks), strict=True))
    if len(planned) != len(step["wires"]):
        planned = [{} for _ in step["wires"]]
    spans: list[Span] = []
    waits: list[Interval] = []
    for wire, plan in zip(step["wires"], planned, strict=True):
        begin, end = us(wire["start_s"]), us(wire["start_s"]) + wire["wire_ms"] * 1e3
        phase = next((p for p, (_, until) in phases.items() if begin < until), "update")
        collective = f"0:{plan['origin']}" if plan else ""
        name, source, slice_ = plan.get("name", ""), plan.get("source", ""), plan.get("slice")
        told = {"slice": slice_, "phase": phase, "collective": collective, "source": source}
        spans.append(Span("wire", name or wire["name"], wire["name"], begin, end, **told))
        if wire["done_s"] is None:
            continue
        late = us(wire["done_s"]) - wire["late_ms"] * 1e3
        for kind, wait in (
            ("wait", (late - wire["exposed_ms"] * 1e3, late)),
            ("late", (late, us(wire["done_s"]))),
        ):
            waits.append(wait)
            if wait[1] - wait[0] >= SHORTEST_WAIT_US:
                spans.append(Span("compute", f"wait for {name}", kind, *wait, **told))
    for phase, whole in phases.items():
        for begin, end in _without(whole, waits):
            spans.append(Span("compute", phase, "compute", begin, end, phase=phase))
    return tuple(sorted(spans, key=lambda s: s.begin_us))


def _without(whole: Interval, waits: list[Interval]) -> list[Interval]:
    """A phase from begin to end, less the waits in it."""
    at, end = whole
    left = []
    for begin, until in sorted(waits):
        if until <= at or begin >= end:
            continue
        if begin > at:
            left.append((at, begin))
        at = max(at, until)
    return [*left, (at, end)] if end > at else left


def write_page(
    found: Sequence[Timeline], rank: dict[str, Any], result: dict[str, Any], dumps: Path, path: Path
) -> None:
    """The report as a page: timelines, losses, collectives, graphs."""
    # Imported here because it loads torch: ranks should start, and bad options fail, without delay.
    from domino_compile.ratio import change_text
    from domino_compile.report.explanation import explanation_of
    from domino_compile.tools.html import Curve, ReportData, page, read_dump
    from domino_compile.tools.html.tiles import emulated_tile, measured_tiles, origin_text

    reports = [CompileReport.from_dict(report) for report in rank["reports"]]
    versions = result["versions"]
    steps = (result["step_ms_inductor"], result["step_ms_domino"])
    data = ReportData(
        title="domino_compile: the demo",
        facts=(
            ("command", result["command"]),
            ("emulated link", result["link"]),
            *versions.items(),
        ),
        explanation=explanation_of(reports),
        verdict=(
            f"{change_text(*steps)} a step, domino compared with Inductor alone; "
            f"{result['hidden_fraction']:.0%} of its communication is hidden. The link is "
            "emulated: numbers travel, times are the link table's.",
            "Launches and waits are measured. Between them, the compute lane is divided among the "
            "slices in the planned order and in proportion to the predicted times.",
        ),
        tiles=(
            *measured_tiles(
                steps,
                (result["hidden_fraction_inductor"], result["hidden_fraction"]),
                result["exposed_ms"],
                result["loss_difference"],
            ),
            emulated_tile(result["link"], result["config"]["ranks"], "cpu"),
        ),
        origin=origin_text(result["link"]),
        timelines=tuple(found),
        graphs=read_dump(dumps).graphs,
        curves=tuple(Curve(TITLES[v], tuple(result[f"loss_{v}"])) for v in VARIANTS),
    )
    path.write_text(page(data), encoding="utf-8")
