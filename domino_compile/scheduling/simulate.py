"""A simulated run of units: when each one computes or is on the wire, and the memory in use."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from domino_compile.scheduling.units import Unit, UnitGraph

#: The largest share of its time that compute saves by a higher clock after a pause: an H200 at its
#: power limit runs at 1.6 GHz, and at most at 1.98 GHz.
MOST_SAVED = 1 - 1.6 / 1.98


@dataclass(frozen=True)
class Occupancy:
    """The time during which a unit computes or, with ``wire``, its collective is on the wire.

    Times are in microseconds from the start. ``stall_us`` is how long compute stood still before
    the unit, waiting for the collective ``stalled_by`` (the index of its launch).
    """

    unit: int
    start_us: float
    end_us: float
    stall_us: float = 0.0
    stalled_by: int | None = None
    wire: bool = False

    def overlap_us(self, other: Occupancy) -> float:
        """Return how long both last at the same time."""
        return max(0.0, min(self.end_us, other.end_us) - max(self.start_us, other.start_us))


@dataclass(frozen=True)
class Schedule:
    """An order of units, and the times that the cost model predicts for it.

    Attributes:
        order: The indices of the units, in the order in which they run.
        occupancies: One occupancy for each unit, in the same order.
        peak_bytes: The largest estimate of the memory in use at once.
        total_us: The time when both compute and wire are done.
    """

    order: tuple[int, ...]
    occupancies: tuple[Occupancy, ...]
    peak_bytes: int
    total_us: float

    @cached_property
    def computing(self) -> list[Occupancy]:
        """Return the occupancies of compute, in order."""
        return [s for s in self.occupancies if not s.wire]

    @property
    def compute_us(self) -> float:
        """Return how long compute is busy."""
        return sum(s.end_us - s.start_us for s in self.computing)

    @property
    def stall_us(self) -> float:
        """Return the exposed communication: how long compute stands still, including at the end."""
        return max(0.0, self.total_us - self.compute_us)

    def hidden_under(self, wire: Occupancy) -> list[Occupancy]:
        """Return the occupancies of compute while a collective is on the wire."""
        first = bisect_right(self.computing, wire.start_us, key=lambda s: s.end_us)
        behind = bisect_left(self.computing, wire.end_us, key=lambda s: s.start_us)
        return [s for s in self.computing[first:behind] if s.overlap_us(wire) > 0.0]

    def exposed_us(self, wire: Occupancy) -> float:
        """Return how long a collective is on the wire while nothing computes."""
        hidden = sum(s.overlap_us(wire) for s in self.hidden_under(wire))
        return max(0.0, wire.end_us - wire.start_us - hidden)


class Lifetimes:
    """Which units need each result and input of a graph, and so when its memory is free again.

    Results come first, numbered like their units, and then the inputs. Users are units, and after
    them collectives on the wire: one whose input stays in memory (``Unit.keeps_input``) uses it
    until the first unit waits for it.

    Attributes:
        used: For each user the numbers of what it needs.
        sizes: The bytes of each; 0 where it is never freed.
        held: The bytes of the inputs.
    """

    def __init__(self, graph: UnitGraph) -> None:
        count = len(graph.units)
        kept = graph.kept
        self.used: list[list[int]] = [sorted(unit.after) for unit in graph.units]
        self.used += [[] for _ in graph.units]
        self.sizes = [0 if unit.index in kept else unit.out_bytes for unit in graph.units]
        self.sizes += [size for size, _ in graph.input_uses]
        self.held = sum(self.sizes[count:])
        for number, (_, users) in enumerate(graph.input_uses, count):
            for user in users:
                self.used[user].append(number)
        for unit in graph.units:
            if unit.keeps_input:
                in_flight = count + unit.index
                self.used[in_flight], self.used[unit.index] = self.used[unit.index], []
        #: Of each result and input: how many units still need it, and the sum of their numbers,
        #: which names the last one.
        self.users = [0] * len(self.sizes)
        self.user_sum = [0] * len(self.sizes)
        for user, used in enumerate(self.used):
            for number in used:
                self.users[number] += 1
                self.user_sum[number] += user
        #: For each user the bytes that no other user needs any more.
        self.frees = [0] * (2 * count)
        for number, remaining in enumerate(self.users):
            if remaining == 1:
                self.frees[self.user_sum[number]] += self.sizes[number]


class Machine:
    """The state of a simulated run: the clocks, the placed units and the memory in use.

    Args:
        graph: The units of the graph.
        lifetimes: The lifetimes of the graph, where several runs share them.
        flying: The collectives in flight at the start, in the order in which they were launched.
        rested: How long compute can run at a higher clock, as the time that this saves.
    """

    def __init__(
        self,
        graph: UnitGraph,
        lifetimes: Lifetimes | None = None,
        flying: Iterable[Occupancy] = (),
        rested: float = 0.0,
    ) -> None:
        graph_lifetimes = lifetimes or Lifetimes(graph)
        self.now = 0.0
        self.units = graph.units
        self.rested = rested
        self.wire_free: dict[str | None, float] = defaultdict(float)
        self.wire_end: dict[int, float] = {}
        self.occupancies: list[Occupancy] = list(flying)
        for busy in self.occupancies:
            self.wire_end[busy.unit] = self.wire_free[self.units[busy.unit].group] = busy.end_us
        self.used, self.sizes = graph_lifetimes.used, graph_lifetimes.sizes
        self.users, self.user_sum = list(graph_lifetimes.users), list(graph_lifetimes.user_sum)
        self.frees = list(graph_lifetimes.frees)
        self.live = self.peak = graph_lifetimes.held
        self._count = len(graph.units)
        #: Where the occupancies of the collectives are that no unit has waited for.
        self._unawaited = {busy.unit: place for place, busy in enumerate(self.occupancies)}

    def available(self, unit: Unit) -> tuple[float, int | None]:
        """Return when the collectives that a unit needs are complete, and the last of them."""
        if not unit.after_wire:
            return 0.0, None
        return max((self.wire_end[i], i) for i in unit.after_wire)

    def run(self, unit: Unit) -> list[int]:
        """Place a unit next; waiting for a collective stops compute, even for a launch.

        Returns:
            The units that free more than before: they alone still need something.
        """
        ready, by = self.available(unit)
        stall = 0.0 if by is None or ready <= self.now else self._wait(by)
        self.now += stall
        stalled_by = by if stall else None
        if unit.launch:
            assert unit.group is not None
            start = max(self.now, self.wire_free[unit.group])
            end = start + unit.cost_us * unit.slowdown
            self.wire_free[unit.group] = self.wire_end[unit.index] = end
            self._unawaited[unit.index] = len(self.occupancies)
            self.occupancies.append(Occupancy(unit.index, start, end, stall, stalled_by, wire=True))
        else:
            start = self.now
            self.now = start + self._duration(unit)
            self.occupancies.append(Occupancy(unit.index, start, self.now, stall, stalled_by))
        self.live += unit.out_bytes
        in_place = self.frees[unit.index] if unit.launch else 0
        self.peak = max(self.peak, self.live - min(in_place, unit.out_bytes))
        more = self._used_by(unit.index)
        for launch in unit.after_wire:
            if self._unawaited.pop(launch, None) is not None:
                more += self._used_by(self._count + launch)
        return more

    def _used_by(self, user: int) -> list[int]:
        """Free what no other user needs; return the users that now free more than before."""
        users, user_sum, more = self.users, self.user_sum, []
        self.live -= self.frees[user]
        for number in self.used[user]:
            users[number] -= 1
            user_sum[number] -= user
            if users[number] == 1 and self.sizes[number]:
                last = user_sum[number]
                self.frees[last] += self.sizes[number]
                more.append(last)
        return more

    def _wait(self, launch: int) -> float:
        """Return how long compute waits for a collective that is in flight.

        Collectives were expected to be slowed by compute. While compute waits, those of this group
        are not, so that this one, those before it and all behind it end earlier.
        """
        awaited = self.units[launch]
        wait = self.wire_end[launch] - self.now
        if awaited.slowdown > 1.0:
            wait = self._hurry(launch, awaited.group)
        self.rested += wait * awaited.regained
        return wait

    def _hurry(self, launch: int, group: str | None) -> float:
        """Let a group's collectives run at full speed until one has ended; return when, from now.

        A group's collectives queue, so those in flight follow each other without gaps.
        """
        ended, begun, sooner = self.wire_end[launch], self.now, 0.0
        for place in self._in_flight(group):
            busy = self.occupancies[place]
            start = max(busy.start_us, self.now)
            if start < ended:
                end = begun + (busy.end_us - start) / self.units[busy.unit].slowdown
                sooner = busy.end_us - end
            else:
                begun, end = busy.start_us - sooner, busy.end_us - sooner
            first = busy.start_us if busy.start_us <= self.now else begun
            self.occupancies[place] = replace(busy, start_us=first, end_us=end)
            self.wire_end[busy.unit] = begun = end
        assert group is not None
        self.wire_free[group] = begun
        return self.wire_end[launch] - self.now

    def _in_flight(self, group: str | None) -> list[int]:
        """Return where the occupancies of a group's collectives are that have not ended, in order.

        Collectives of a group end in order, so all earlier ones than one that has ended have, too.
        """
        found = []
        for place in reversed(range(len(self.occupancies))):
            busy = self.occupancies[place]
            if busy.wire and self.units[busy.unit].group == group:
                if busy.end_us <= self.now:
                    break
                found.append(place)
        return found[::-1]

    def _duration(self, unit: Unit) -> float:
        """Return how long a unit computes if it starts now, at a higher clock if it has rested."""
        usual = self._usual_duration(unit)
        saved = min(self.rested, usual * MOST_SAVED)
        self.rested -= saved
        return usual - saved

    def _usual_duration(self, unit: Unit) -> float:
        """Return how long a unit computes if it starts now, perhaps partly beside collectives.

        The collectives of a group queue without gaps, so its wire is busy until the last one ends.
        """
        flying = max(self.wire_free.values(), default=0.0) - self.now
        beside = unit.cost_us * unit.slowdown
        if flying <= 0.0 or flying >= beside:
            return unit.cost_us if flying <= 0.0 else beside
        return flying + unit.cost_us * (1 - flying / beside)

    def flying(self) -> list[Occupancy]:
        """Return the collectives that no unit has waited for yet, as they were launched."""
        return [self.occupancies[place] for place in self._unawaited.values()]

    def freed_by(self, units: Collection[int]) -> list[tuple[int, list[int]]]:
        """Return what earlier units have left and no others need any more than these units do.

        Args:
            units: Units that have not run, or whose collectives are still in flight.

        Returns:
            The bytes of each such result or input, and the units that need it.
        """
        users: dict[int, list[int]] = defaultdict(list)
        for unit in units:
            for number in self.used[unit] if unit not in self._unawaited else ():
                users[number].append(unit)
            for number in self.used[self._count + unit]:
                users[number].append(unit)
        return [
            (self.sizes[number], by)
            for number, by in users.items()
            if self.sizes[number]
            and len(by) == self.users[number]
            and (number not in units or number in self._unawaited)
        ]

    def end(self) -> float:
        """Let everything in flight arrive, and return the time."""
        last = max(self.wire_end, key=lambda i: self.wire_end[i], default=None)
        if last is not None and self.wire_end[last] > self.now:
            self.now += self._wait(last)
        return self.now

    def result(self) -> Schedule:
        """Return the schedule of the units placed so far, when everything in flight has arrived."""
        total = self.end()
        return Schedule(
            tuple(s.unit for s in self.occupancies), tuple(self.occupancies), self.peak, total
        )


def run_order(graph: UnitGraph, order: Sequence[int] | None = None) -> Schedule:
    """Return the predicted times of a given order (by default the graph's own order)."""
    machine = Machine(graph)
    for index in order if order is not None else range(len(graph.units)):
        machine.run(graph.units[index])
    return machine.result()
