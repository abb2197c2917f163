"""List scheduling over two resources: compute, and the wire of each process group.

The order follows the Domino scheme. The work that a launch needs, back to earlier launches, is
its *segment*. Compute keeps to the segment with the least work left, so it stays with one slice
until that slice launches its collective, and then turns to another. Work that no collective depends
on (weight gradients, the loss) is *filler*: it is kept for a gap, or until memory runs short. A
collective is launched as soon as its input exists; a wait is placed at the first use of its result.

::

    until everything is placed:
        launch every collective whose input exists and is not itself still in flight
        among the units that are ready and need no collective that is still in flight:
            memory short -> the filler that frees most, otherwise the first of the units below that
                            memory has room for, otherwise the oldest unit
            otherwise    -> a unit of the segment with the least work left (one that needs no
                            collective in flight, if there is one), or the oldest filler
        if there is none -> wait for the collective that ends first

Ties go to the earlier unit of the graph, so the result depends on the graph and the costs only.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import islice

from domino_compile.scheduling.recompute import Stage, holds, own_orders, stages_of, window_of
from domino_compile.scheduling.simulate import Lifetimes, Machine, Schedule
from domino_compile.scheduling.units import Unit, UnitGraph


@dataclass(frozen=True)
class Thrift:
    """How an order saves memory.

    Attributes:
        pressure: The fraction of the allowed memory above which memory counts as short. The order
            may still need more.
        window: The fraction of the usual window (``recompute.window_of``): with a smaller one less
            is recomputed ahead of its use, and less waits in memory.
        instead: How many units are considered in place of one that memory has no room for, before
            the oldest.
    """

    pressure: float
    window: float = 1.0
    instead: int = 0


#: What is tried in turn.
THRIFTS = (
    *(Thrift(pressure) for pressure in (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.0)),
    *(Thrift(pressure, 1.0, 16) for pressure in (0.95, 0.8)),
    *(Thrift(pressure, 0.5, 16) for pressure in (1.0, 0.95, 0.9, 0.8)),
)
#: An order is good enough if it loses at most this fraction of the time of the first one tried,
#: which uses the most memory.
ENOUGH = 0.01


def schedule_units(
    graph: UnitGraph,
    cap_bytes: float,
    fits: Callable[[Schedule], bool] = lambda schedule: True,
    known: Sequence[Schedule] = (),
) -> Schedule:
    """Order the units so that collectives run while the device computes.

    List scheduling is greedy, so its results are checked: the fastest order is used that needs no
    more memory than allowed, if it is predicted to be no slower than the graph's own order.

    Args:
        graph: The units of the graph.
        cap_bytes: Above this much live memory, filler that frees memory goes first. If the graph's
            own orders need more, the limit is raised to the least that one of them needs.
        fits: Whether an order that keeps to this limit may be used. It is asked about few orders.
        known: The graph's own orders, if they have been run already.

    Returns:
        The schedule with predicted times; one of the graph's own orders (``own_orders``) if no
        better one fits.
    """
    stages = stages_of(graph.units)
    own = sorted(known or own_orders(graph), key=lambda order: order.peak_bytes)
    allowed = max(cap_bytes, own[0].peak_bytes)
    graph_order = next(filter(fits, own), own[0])
    best, enough_us = graph_order, 0.0
    for schedule in _orders(graph, stages, allowed):
        enough_us = enough_us or schedule.total_us * (1 + ENOUGH)
        better = schedule.total_us <= graph_order.total_us
        better = better and (best is graph_order or schedule.total_us < best.total_us)
        if better and schedule.peak_bytes <= allowed and fits(schedule):
            best = schedule
        if best is not graph_order and best.total_us <= enough_us:
            break
    return best


def _orders(graph: UnitGraph, stages: Sequence[Stage], allowed: float) -> Iterator[Schedule]:
    """Yield orders, those that spare memory least first."""
    known = Segments(graph.units), Lifetimes(graph)
    window = window_of(graph.units, stages)
    for thrift in THRIFTS:
        held = holds(graph.units, stages, window * thrift.window)
        yield _Scheduler(graph, allowed * thrift.pressure, thrift.instead, held, *known).run()


class Segments:
    """The segment of each launch: the units it needs, back to earlier launches, and the work left.

    Units that those earlier launches need as well are left out, because they are placed before
    them. Otherwise a segment would reach back to the first layer along the residual stream, which
    bypasses all collectives.

    Attributes:
        of: The launches whose segments a unit belongs to.
        left_us: For each launch the predicted time of the units of its segment.
        behind: For each launch the earlier launches after which its segment begins.
        before: For each launch the later launches whose segments begin after it.
    """

    def __init__(self, units: Sequence[Unit]) -> None:
        self.of: list[list[int]] = [[] for _ in units]
        self.left_us: dict[int, float] = {}
        self.behind: dict[int, set[int]] = {}
        self.before: dict[int, list[int]] = defaultdict(list)
        for launch in units:
            if launch.launch:
                self._add(units, launch)

    def _add(self, units: Sequence[Unit], launch: Unit) -> None:
        seen, heap = set(launch.after), [-index for index in launch.after]
        heapify(heap)
        behind = self.behind[launch.index] = set()
        left = 0.0
        while heap:
            index = -heappop(heap)  # the latest first, so that its needs come after it
            if units[index].launch:
                behind.add(index)
                self.before[index].append(launch.index)
                continue
            if not behind.isdisjoint(self.of[index]):
                continue
            left += units[index].cost_us
            self.of[index].append(launch.index)
            for needed in units[index].after - seen:
                heappush(heap, -needed)
            seen |= units[index].after
        self.left_us[launch.index] = left


class Progress:
    """How far a run is in the segments.

    Attributes:
        left_us: For each launch the predicted time of its segment's units that are not yet placed.
        ready: For each launch the units of its segment that can be placed now, sorted.
        workable: The launches that have such units and are behind no launch still to be placed.
    """

    def __init__(self, segments: Segments) -> None:
        self.segments = segments
        self.left_us = dict(segments.left_us)
        self.ready: dict[int, list[int]] = defaultdict(list)
        self.workable: set[int] = set()
        self._missing = {launch: len(behind) for launch, behind in segments.behind.items()}

    def made_ready(self, index: int) -> None:
        """Note that a unit can be placed now."""
        for launch in self.segments.of[index]:
            insort(self.ready[launch], index)
            if not self._missing[launch]:
                self.workable.add(launch)

    def placed(self, unit: Unit) -> None:
        """Note that a unit has been placed."""
        for launch in self.segments.of[unit.index]:
            self.left_us[launch] -= unit.cost_us
            _take(self.ready[launch], unit.index)
            if not self.ready[launch]:
                self.workable.discard(launch)
        if unit.launch:
            for launch in self.segments.before.get(unit.index, ()):
                self._missing[launch] -= 1
                if not self._missing[launch] and self.ready[launch]:
                    self.workable.add(launch)


class _Scheduler:
    def __init__(
        self,
        graph: UnitGraph,
        cap_bytes: float,
        instead: int,
        held: Mapping[int, int],
        segments: Segments,
        lifetimes: Lifetimes,
    ) -> None:
        self.units = graph.units
        self.cap, self.instead = cap_bytes, instead
        self.machine = Machine(graph, lifetimes)
        self.segments = segments
        self.progress = Progress(segments)
        self.missing = [len(unit.after) for unit in graph.units]
        self.users: list[list[int]] = [[] for _ in graph.units]
        self.ready: list[int] = []
        self.launches: list[int] = []
        self.filler: list[int] = []
        self.relief: list[tuple[int, int]] = []
        for unit in graph.units:
            for other in unit.after:
                self.users[other].append(unit.index)
            if (behind := held.get(unit.index)) is not None:
                self.users[behind].append(unit.index)
                self.missing[unit.index] += 1
            if not self.missing[unit.index]:
                self._made_ready(unit.index)

    def run(self) -> Schedule:
        while self.ready:
            self._place(self._choose())
        return self.machine.result()

    def _kind(self, index: int) -> list[int] | None:
        """Return the list (``launches`` or ``filler``) that a unit is in besides ``ready``."""
        if self.units[index].launch:
            return self.launches
        return None if self.segments.of[index] else self.filler

    def _made_ready(self, index: int) -> None:
        insort(self.ready, index)
        self.progress.made_ready(index)
        kind = self._kind(index)
        if kind is not None:
            insort(kind, index)
        if kind is self.filler:
            self._may_relieve(index)

    def _place(self, unit: Unit) -> None:
        _take(self.ready, unit.index)
        if (kind := self._kind(unit.index)) is not None:
            _take(kind, unit.index)
        for index in self.machine.run(unit):
            if _has(self.filler, index):
                self._may_relieve(index)
        self.progress.placed(unit)
        for user in self.users[unit.index]:
            self.missing[user] -= 1
            if self.missing[user] == 0:
                self._made_ready(user)

    def _choose(self) -> Unit:
        wishes = self._wishes()
        best = next(wishes)
        if self._has_room(best):
            return best
        if (relief := self._relief()) is not None:
            return relief
        instead = (unit for unit in islice(wishes, self.instead) if self._has_room(unit))
        flowing = filter(self._flows, instead)
        return next(flowing, self.units[self.ready[0]])

    def _has_room(self, unit: Unit) -> bool:
        return self.machine.live + unit.out_bytes <= self.cap

    def _wishes(self) -> Iterator[Unit]:
        """Yield the units that keep the wire busy, best first, regardless of memory."""
        yield from self._flowing(self.launches)
        for launch in sorted(self.progress.workable, key=self._urgency):
            yield from self._flowing(self.progress.ready[launch])
        yield from self._flowing(self.filler)
        yield from self._flowing(self.ready)
        ready = (self.units[i] for i in self.ready)
        yield min(ready, key=lambda u: (self.machine.available(u)[0], u.index))

    def _flowing(self, indices: Sequence[int]) -> Iterator[Unit]:
        """Yield the units that need no collective that is still in flight."""
        for index in indices:
            if self._flows(self.units[index]):
                yield self.units[index]

    def _flows(self, unit: Unit) -> bool:
        return not unit.after_wire or self.machine.available(unit)[0] <= self.machine.now

    def _urgency(self, launch: int) -> tuple[bool, float, int]:
        """Return a sort key: segments that can be finished now first, then the least work left."""
        ends = (self.machine.wire_end.get(i, math.inf) for i in self.segments.behind[launch])
        blocked = any(end > self.machine.now for end in ends)
        return blocked, round(self.progress.left_us[launch], 6), launch

    # -- filler that frees memory ----------------------------------------------------------

    def _may_relieve(self, index: int) -> None:
        """Remember ready filler that frees memory; again if it frees more than before."""
        if (net := self._net_freed(index)) > 0:
            heappush(self.relief, (-net, index))

    def _relief(self) -> Unit | None:
        """Return the filler that frees most memory, or ``None`` if none frees any."""
        waiting, unit = [], None
        while self.relief and unit is None:
            freed, index = entry = heappop(self.relief)
            if not _has(self.filler, index) or -freed != self._net_freed(index):
                continue  # it has been placed, or stands further up as well
            waiting.append(entry)
            if self._flows(self.units[index]):
                unit = self.units[index]
        for entry in waiting:
            heappush(self.relief, entry)
        return unit

    def _net_freed(self, index: int) -> int:
        return self.machine.frees[index] - self.units[index].out_bytes


def _has(indices: list[int], index: int) -> bool:
    """Return whether a sorted list has an index."""
    place = bisect_left(indices, index)
    return place < len(indices) and indices[place] == index


def _take(indices: list[int], index: int) -> None:
    """Remove an index from a sorted list."""
    del indices[bisect_left(indices, index)]
