"""Turns a schedule into a report: each step and each collective, with predicted times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypedDict

from torch import fx

from domino_compile.graph.collectives import is_wait, kind_of, payload_of
from domino_compile.graph.tags import origin_of
from domino_compile.passes.schedule import ScheduleResult, events_of
from domino_compile.report import ScheduleReport, Step, WireReport
from domino_compile.report.origin import place_of
from domino_compile.scheduling import Occupancy, Schedule, StepMemory, Unit, UnitGraph, run_order
from domino_compile.scheduling.kinds import event_kind, is_anchor


def schedule(
    phase: str, result: ScheduleResult, is_backward: Callable[[fx.Node], bool] | None = None
) -> ScheduleReport:
    """Return the report of one graph's schedule.

    Args:
        phase: ``forward``, ``backward``, ``inference`` or ``uncut``.
        result: The graph's schedule.
        is_backward: For a graph with both phases, whether a node runs in backward.
    """
    return ScheduleReport(
        phase=phase,
        events=list(result.events),
        wires=list(_wires(result.units.units, result.after)),
        predicted_before_us=_round(result.before.total_us),
        predicted_us=_round(result.after.total_us),
        peak_bytes_before=result.before.peak_bytes,
        peak_bytes=result.after.peak_bytes,
        compute_us=_round(result.after.compute_us),
        exposed_us=_round(result.after.stall_us),
        exposed_before_us=_round(result.before.stall_us),
        steps=_Walk(result.units.units, result.after, is_backward).steps(),
    )


def uncut(
    graph: fx.Graph, units: UnitGraph, is_backward: Callable[[fx.Node], bool]
) -> ScheduleReport:
    """Return the report of a graph in its current order (phase ``uncut``)."""
    order = run_order(units)
    result = ScheduleResult(units, order, order, events_of(graph), StepMemory(0))
    return schedule("uncut", result, is_backward)


def unit_kind(unit: Unit) -> str:
    """Return the kind of step (``Step.kind``) that a unit is."""
    main = _main(unit)
    return event_kind(main) or ("kernel" if is_anchor(main) else "fused")


def _main(unit: Unit) -> fx.Node:
    return next((n for n in unit.nodes if is_anchor(n)), unit.nodes[-1])


def _wires(units: list[Unit], plan: Schedule) -> Iterator[WireReport]:
    for busy in plan.occupancies:
        if not busy.wire:
            continue
        unit = units[busy.unit]
        meanwhile = [units[s.unit] for s in plan.hidden_under(busy)]
        named = [u.name for u in meanwhile if unit_kind(u) in ("matmul", "attention")]
        yield WireReport(
            name=unit.name,
            kind=kind_of(unit.nodes[0]),
            group=str(unit.group),
            **_piece(unit),
            bytes=payload_of(unit.nodes[0]),
            start_us=_round(busy.start_us),
            wire_us=_round(unit.cost_us),
            exposed_us=_round(plan.exposed_us(busy)),
            hidden_under=named,
            hidden_under_fused=len(meanwhile) - len(named),
            source=place_of(unit.nodes[0]),
            origin=origin_of(unit.nodes[0]) or unit.name,
        )


@dataclass
class _Walk:
    """One walk through a schedule, with the clock and the collectives that are still running."""

    units: list[Unit]
    plan: Schedule
    is_backward: Callable[[fx.Node], bool] | None = None

    def steps(self) -> list[Step]:
        """Return every step in order, with each wait at the point where it happens."""
        self.now = 0.0
        self.wires = {s.unit: s for s in self.plan.occupancies if s.wire}
        self.place = {launch: place for place, launch in enumerate(self.wires)}
        result: list[Step] = []
        for busy in self.plan.occupancies:
            unit = self.units[busy.unit]
            result += self._waits(self.plan_order(unit.after_wire))
            self._add(result, unit, busy)
        result += self._waits(self.plan_order(set(self.wires)))
        return result

    def plan_order(self, launches: set[int]) -> list[int]:
        """Return the launches that nothing has waited for yet, in launch order."""
        return sorted(launches & self.wires.keys(), key=self.place.__getitem__)

    def _waits(self, launches: list[int]) -> Iterator[Step]:
        for index in launches:
            launch = self.units[index].nodes[0]
            began = self.now
            self.now = max(self.now, self.wires.pop(index).end_us)
            wait = next((n for n in launch.users if is_wait(n)), launch)
            yield Step(
                kind="wait",
                name=wait.name,
                **_piece(self.units[index]),
                start_us=_round(began),
                end_us=_round(self.now),
                collective=launch.name,
                source=place_of(launch),
                phase=self._phase(launch),
            )

    def _add(self, result: list[Step], unit: Unit, busy: Occupancy) -> None:
        kind, main = unit_kind(unit), _main(unit)
        start = self.now
        self.now = start if busy.wire else busy.end_us
        last, phase = result[-1] if result else None, self._phase(main)
        same = last is not None and (last.kind, last.piece, last.phase)
        if last is not None and same == ("fused", _piece(unit), phase) and kind == "fused":
            last.kernels += 1
            last.name, last.end_us = main.name, _round(self.now)
            return
        result.append(
            Step(
                kind=kind,
                name=main.name,
                **_piece(unit),
                start_us=_round(start),
                end_us=_round(self.now),
                collective=main.name if busy.wire else "",
                source="" if kind == "fused" else place_of(main),
                phase=phase,
            )
        )

    def _phase(self, node: fx.Node) -> str:
        if self.is_backward is None:
            return ""
        return "backward" if self.is_backward(node) else "forward"


class _Piece(TypedDict):
    slice: int | None
    part: int | None


def _piece(unit: Unit) -> _Piece:
    """Return a unit's slice and part as the fields of a report."""
    piece = unit.piece
    if piece is None:
        return {"slice": None, "part": None}
    return {"slice": piece.slice, "part": piece.part}


def _round(microseconds: float) -> float:
    return round(microseconds, 3)
