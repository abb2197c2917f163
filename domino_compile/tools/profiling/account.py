"""How one rank spent the time of a step.

The words mean the same on every device but are measured in different ways:

* On a GPU, *computing* is any kernel other than a collective. A collective is *in flight* while its
  kernel runs, and *exposed* while it is in flight and nothing computes.
* On the CPU the host is the device. Everything except waiting counts as computing, Python included.
  A collective is *exposed* while it is in flight and the thread waits.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from domino_compile.cost.intervals import union_us
from domino_compile.emulate.trace import Record
from domino_compile.tools.timelines import Timeline
from domino_compile.tools.timelines.spans import COMPUTE, STILL, WIRE

#: Begin and end, in microseconds.
Interval = tuple[float, float]


@dataclass(frozen=True)
class GroupTime:
    """The collectives of one process group in one step; times in milliseconds.

    Attributes:
        collectives: The number of collectives.
        wire_ms: How long one or several collectives were in flight.
        exposed_ms: How much of that was exposed.
    """

    collectives: float
    wire_ms: float
    exposed_ms: float

    @property
    def hidden_ms(self) -> float:
        """Return how long one was in flight, hidden under computing."""
        return max(0.0, self.wire_ms - self.exposed_ms)


@dataclass(frozen=True)
class Account:
    """One step; times in milliseconds.

    Attributes:
        step_ms: The whole step.
        compute_ms: How long something computed.
        wire_ms: How long a collective was in flight, several at once counted once.
        exposed_ms: How much of that was exposed.
        late_ms: How long waits lasted beyond an emulated wire's time, for other ranks or for the
            real transport below; 0 on a real link, where that is part of the flight.
        groups: The times of each process group, by its name.
    """

    step_ms: float
    compute_ms: float
    wire_ms: float
    exposed_ms: float
    late_ms: float = 0.0
    groups: dict[str, GroupTime] = field(default_factory=dict)

    @property
    def rest_ms(self) -> float:
        """Return the rest of the step, in which a GPU waits for the host's launches."""
        return max(0.0, self.step_ms - self.compute_ms - self.exposed_ms - self.late_ms)

    @property
    def hidden(self) -> float:
        """Return the share of the wire time that is hidden; 1 if there is none."""
        return max(0.0, 1 - self.exposed_ms / self.wire_ms) if self.wire_ms else 1.0

    @property
    def collectives(self) -> float:
        """Return the number of collectives of all groups."""
        return sum(group.collectives for group in self.groups.values())

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Account:
        """Undo ``dataclasses.asdict``."""
        groups = {name: GroupTime(**group) for name, group in data["groups"].items()}
        return Account(**{**data, "groups": groups})


def account_of_timeline(timeline: Timeline, step_ms: float) -> Account:
    """Return the account of a measured timeline, which lasted ``step_ms``."""
    work = _pairs(timeline, COMPUTE)
    computed = union_us(work)
    groups = {}
    for name in sorted({s.group for s in timeline.spans if s.lane == WIRE}):
        flights = _pairs(timeline, WIRE, name)
        exposed = union_us([*work, *flights]) - computed
        groups[name] = GroupTime(len(flights), union_us(flights) / 1e3, exposed / 1e3)
    return Account(
        step_ms,
        computed / 1e3,
        timeline.wire_us / 1e3,
        timeline.exposed_us / 1e3,
        groups=groups,
    )


def account_of_records(records: Sequence[Record], step_ms: float) -> Account:
    """Return the account of a step on gloo ranks with an emulated link, whose waits keep records.

    Exposed means the same as in a timeline: something is on the wire and the thread waits.
    """
    records = [record for record in records if record.name != "barrier"]
    waits = [wait for record in records for wait in _wait(record)]
    groups = {}
    for name in sorted({record.group for record in records}):
        mine = [record for record in records if record.group == name]
        flights = _flights(mine)
        groups[name] = GroupTime(len(mine), union_us(flights) / 1e3, _shared(flights, waits) / 1e3)
    flights = _flights(records)
    exposed = _shared(flights, waits) / 1e3
    late = max(0.0, union_us(waits) / 1e3 - exposed)
    compute = max(0.0, step_ms - exposed - late)
    return Account(step_ms, compute, union_us(flights) / 1e3, exposed, late, groups)


def _flights(records: Iterable[Record]) -> list[Interval]:
    return [(record.start_s * 1e6, record.end_s * 1e6) for record in records]


def _wait(record: Record) -> Iterator[Interval]:
    """Yield when a thread waited for a collective, if it did."""
    if record.done_s is not None and record.blocked_ms:
        yield record.done_s * 1e6 - record.blocked_ms * 1e3, record.done_s * 1e6


def _shared(first: Sequence[Interval], second: Sequence[Interval]) -> float:
    """Return how long both happen at once."""
    return union_us(first) + union_us(second) - union_us([*first, *second])


def _pairs(timeline: Timeline, lane: str, group: str | None = None) -> list[tuple[float, float]]:
    return [
        (span.begin_us, span.end_us)
        for span in timeline.spans
        if span.lane == lane and span.kind not in STILL and group in (None, span.group)
    ]


def typical(accounts: Sequence[Account]) -> Account:
    """Return the account of the median step: its parts are the mean of the middle half of steps.

    The parts add up to the step as they do in each step; medians of each part would not.
    """
    ordered = sorted(accounts, key=lambda account: account.step_ms)
    skipped = len(ordered) // 4
    middle = _mean(ordered[skipped : len(ordered) - skipped])
    step_ms = statistics.median(account.step_ms for account in accounts)
    return scaled(middle, step_ms / middle.step_ms) if middle.step_ms else middle


def _mean(accounts: Sequence[Account]) -> Account:
    none, of = GroupTime(0, 0.0, 0.0), statistics.fmean

    def group(name: str) -> GroupTime:
        times = [account.groups.get(name, none) for account in accounts]
        return GroupTime(
            of([g.collectives for g in times]),
            of([g.wire_ms for g in times]),
            of([g.exposed_ms for g in times]),
        )

    return Account(
        of([a.step_ms for a in accounts]),
        of([a.compute_ms for a in accounts]),
        of([a.wire_ms for a in accounts]),
        of([a.exposed_ms for a in accounts]),
        of([a.late_ms for a in accounts]),
        {name: group(name) for name in sorted({n for a in accounts for n in a.groups})},
    )


def scaled(account: Account, factor: float) -> Account:
    """Multiply all times by a factor; what takes which part of the step stays."""
    groups = {
        name: GroupTime(group.collectives, group.wire_ms * factor, group.exposed_ms * factor)
        for name, group in account.groups.items()
    }
    return Account(
        account.step_ms * factor,
        account.compute_ms * factor,
        account.wire_ms * factor,
        account.exposed_ms * factor,
        account.late_ms * factor,
        groups,
    )
