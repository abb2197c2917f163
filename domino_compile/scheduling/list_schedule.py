"""List scheduling over two resources: compute, and the wire of each process group.

The order follows the Domino scheme. Compute keeps to the work that leads soonest to the next
launch (so it stays with one slice until that slice launches its collective, then turns to
another); what no collective depends on (weight gradients, the loss) is *filler* and waits
for a gap, or until memory runs short. A collective is launched as soon as its input exists; a wait
is placed at the first use of its result.

::

    until everything is placed:
        launch every collective whose input exists
        among the units that are ready and need no collective that is still in flight:
            memory short -> the filler that frees most
            else         -> the unit nearest to its launch, else the oldest filler
        none -> wait for the collective that ends first

Ties fall to the earlier unit of the graph: the result is a function of the graph and the costs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from domino_compile.scheduling.units import Unit, UnitGraph


@dataclass(frozen=True)
class Span:
    """When a unit runs (or a collective is on the wire), in microseconds from the start.

    ``stall_us`` is how long compute stood still before the unit, for ``stalled_by`` (a launch).
    """

    unit: int
    start_us: float
    end_us: float
    stall_us: float = 0.0
    stalled_by: int | None = None


@dataclass(frozen=True)
class Schedule:
    """An order of units, and the times that the cost model predicts for it.

    Attributes:
        order: unit indices.
        spans: one span for each unit, in order.
        peak_bytes: the largest estimate of what lives at once.
        total_us: when compute and wire are done.
    """

    order: tuple[int, ...]
    spans: tuple[Span, ...]
    peak_bytes: int
    total_us: float

    @property
    def stall_us(self) -> float:
        """How long compute stands still for collectives: the exposed communication."""
        busy = sum(s.stall_us for s in self.spans)
        last = max((s.end_us for s in self.spans), default=0.0)
        computed = max((s.end_us for s in self.spans if s.stalled_by != s.unit), default=0.0)
        return busy + max(0.0, last - computed)


class _Machine:
    """The state of a simulated run: clocks, what is done, what lives."""

    def __init__(self, graph: UnitGraph) -> None:
        self.units = graph.units
        self.pinned = graph.pinned
        self.now = 0.0
        self.wire_free: dict[str, float] = defaultdict(float)
        self.wire_end: dict[int, float] = {}
        self.spans: list[Span] = []
        self.readers: dict[int, set[int]] = defaultdict(set)
        for unit in self.units:
            for other in unit.after:
                self.readers[other].add(unit.index)
        self.inputs = [(size, set(uses)) for size, uses in graph.input_uses]
        self.inputs_of: dict[int, list[int]] = defaultdict(list)
        for number, (_, uses) in enumerate(self.inputs):
            for index in uses:
                self.inputs_of[index].append(number)
        self.live = sum(size for size, _ in self.inputs)
        self.peak = self.live

    def available(self, unit: Unit) -> tuple[float, int | None]:
        """When the collectives that a unit needs are complete, and the last of them."""
        ends = [(self.wire_end[i], i) for i in unit.after_wire]
        return max(ends) if ends else (0.0, None)

    def released(self, unit: Unit) -> int:
        """The bytes that can be freed once the unit has run."""
        freed = sum(
            self.units[other].out_bytes
            for other in unit.after
            if self.readers[other] == {unit.index} and other not in self.pinned
        )
        return freed + sum(
            self.inputs[i][0]
            for i in self.inputs_of[unit.index]
            if self.inputs[i][1] == {unit.index}
        )

    def run(self, unit: Unit) -> None:
        """Place a unit next."""
        if unit.launch:
            assert unit.group is not None
            ready = max(self.now, self.available(unit)[0])
            start = max(ready, self.wire_free[unit.group])
            end = start + unit.cost_us
            self.wire_free[unit.group] = self.wire_end[unit.index] = end
            self.spans.append(Span(unit.index, start, end))
        else:
            ready, by = self.available(unit)
            stall = max(0.0, ready - self.now)
            start = self.now + stall
            self.now = start + unit.cost_us
            self.spans.append(Span(unit.index, start, self.now, stall, by if stall else None))
        self.live += unit.out_bytes
        self.peak = max(self.peak, self.live)
        self.live -= self.released(unit)
        for other in unit.after:
            self.readers[other].discard(unit.index)
        for number in self.inputs_of[unit.index]:
            self.inputs[number][1].discard(unit.index)

    def result(self) -> Schedule:
        total = max([self.now, *self.wire_end.values()], default=0.0)
        return Schedule(tuple(s.unit for s in self.spans), tuple(self.spans), self.peak, total)


def run_order(graph: UnitGraph, order: Sequence[int] | None = None) -> Schedule:
    """The predicted times of a given order (of the graph's own order by default)."""
    machine = _Machine(graph)
    for index in order if order is not None else range(len(graph.units)):
        machine.run(graph.units[index])
    return machine.result()


def distance_to_launch(units: Sequence[Unit]) -> list[float]:
    """For each unit the compute from its start to the nearest launch that needs it (inf: none)."""
    distance = [math.inf] * len(units)
    for unit in reversed(units):
        if unit.launch:
            distance[unit.index] = 0.0
        own = distance[unit.index]
        for other in unit.after:
            step = 0.0 if units[other].launch else units[other].cost_us
            distance[other] = min(distance[other], own + step)
    return distance


def schedule_units(graph: UnitGraph, cap_bytes: float) -> Schedule:
    """Order the units so that collectives fly under compute.

    Args:
        graph: the units.
        cap_bytes: above this much live memory, filler that frees memory goes first.
    """
    return _Scheduler(graph, cap_bytes).run()


class _Scheduler:
    def __init__(self, graph: UnitGraph, cap_bytes: float) -> None:
        self.units = graph.units
        self.cap = cap_bytes
        self.machine = _Machine(graph)
        self.distance = distance_to_launch(graph.units)
        self.missing = [len(unit.after) for unit in graph.units]
        self.users: dict[int, list[int]] = defaultdict(list)
        for unit in graph.units:
            for other in unit.after:
                self.users[other].append(unit.index)
        self.ready = [u.index for u in graph.units if not u.after]

    def run(self) -> Schedule:
        while self.ready:
            self._place(self._choose())
        return self.machine.result()

    def _place(self, unit: Unit) -> None:
        self.ready.remove(unit.index)
        self.machine.run(unit)
        for user in self.users[unit.index]:
            self.missing[user] -= 1
            if self.missing[user] == 0:
                self.ready.append(user)

    def _choose(self) -> Unit:
        launches = [i for i in self.ready if self.units[i].launch]
        if launches:
            return self.units[min(launches)]
        ready = [self.units[i] for i in self.ready]
        now = self.machine.now
        flowing = [u for u in ready if self.machine.available(u)[0] <= now]
        if not flowing:
            return min(ready, key=lambda u: (self.machine.available(u)[0], u.index))
        leading = [u for u in flowing if self.distance[u.index] < math.inf]
        filler = [u for u in flowing if self.distance[u.index] == math.inf]
        best = min(leading, key=lambda u: (self.distance[u.index], u.index), default=None)
        if best is None:
            return min(filler, key=lambda u: u.index)
        if filler and self.machine.live + best.out_bytes > self.cap:
            relief = max(filler, key=lambda u: (self._net_freed(u), -u.index))
            if self._net_freed(relief) > 0:
                return relief
        return best

    def _net_freed(self, unit: Unit) -> int:
        return self.machine.released(unit) - unit.out_bytes
