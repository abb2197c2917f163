"""Checks the order of the code that Inductor emitted, not that of our plan.

``check_emitted`` reads a graph's code (``emitted``) and establishes, from the beginning to the end:

* Every collective is waited for, after its launch.
* Until then nothing uses its result, and nothing writes to what it sends. Neither is freed, and no
  other value takes over its memory.
* What a collective sends has been computed.
* What lies in a slot of the transport is read after the wait and before the release, and no other
  collective uses the slot meanwhile (``order_slots``).
* Each group has exactly the collectives of the graph that was lowered, in that graph's order, with
  the same reduction and the same ranks. The ranks have agreed on that order (``agreement``).
* The peak of live buffers is at most the predicted one (``TOLERANCE``). What one way of a condition
  frees counts as freed here: Inductor frees the operands of a condition in its first way only, and
  keeps them to the end in the other one, with or without this package.

A collective whose result the graph returns without a wait, as a program with asynchronous
collectives may, is awaited by the program; the lowered graph says which these are. A wait for an
input is for a collective of an earlier graph. A second wait for the same collective does nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from domino_compile.verify.emitted import read
from domino_compile.verify.emitted_events import (
    Chosen,
    Event,
    Freed,
    Launch,
    Made,
    Program,
    Returned,
    Unreadable,
    Use,
    Wait,
)
from domino_compile.verify.order_certificate import (
    Collective,
    Finding,
    Names,
    OrderCertificate,
    Promise,
    Rule,
)
from domino_compile.verify.order_slots import Slots
from domino_compile.verify.transported import STARTS

#: How far live buffers may exceed the predicted peak: as a share of it, and in bytes. The largest
#: excess in the suite's graphs is 7 % (``tests/verify/test_order.py``). The prediction knows
#: neither what Inductor fuses nor the kernels' workspaces exactly; a graph far above it might not
#: fit into memory.
TOLERANCE, SLACK_BYTES = 0.25, 1 << 16


def check_emitted(
    code: str, promise: Promise | None = None, names: Names | None = None
) -> OrderCertificate:
    """Return what can be established about the order of emitted code.

    Args:
        code: The module that Inductor emitted for one graph.
        promise: What it must do; ``None`` if that is not known any more, for code from a cache.
            Then only what the code shows by itself is checked.
        names: What Inductor says about its names. Without it, two collectives of a group that are
            alike are not told apart.
    """
    try:
        return _checked(read(code), promise, names)
    except Unreadable as error:
        return refused(str(error))
    except Exception as error:  # a fault of this check: nothing is established
        return refused(f"the check failed ({type(error).__name__}: {error})")


def refused(why: str) -> OrderCertificate:
    """Return that nothing is established, since the code or the promise is not understood."""
    return OrderCertificate(findings=(Finding(Rule.READABLE, 0, " ".join(why.split())),))


def _checked(program: Program, promise: Promise | None, names: Names | None) -> OrderCertificate:
    names, is_known, promise = names or Names(), promise is not None, promise or Promise(())
    launches = _launches(program, names)
    walk = _Walk(program, promise if is_known else None, launches)
    for event in program.events:
        walk.follow(event)
    order, differences = _compared(launches, promise)
    peak, planned = (_peak(program, promise, names, pick) for pick in (max, min))
    return OrderCertificate(
        order=order,
        waits=sum(isinstance(event, Wait) for event in program.events),
        peak_bytes=peak,
        findings=(*walk.findings, *(differences if is_known else ()), *_too_high(planned, promise)),
        in_flight=walk.most,
        buffers=len(walk.flown),
        predicted_bytes=promise.peak_bytes,
    )


@dataclass
class _Flight:
    """One tensor of a collective that has not been waited for."""

    launch: Launch
    sent: frozenset[int]
    received: frozenset[int]
    awaited_here: bool

    @property
    def name(self) -> str:
        return self.launch.title


class _Walk:
    """Goes through the events and notes what is in flight.

    Args:
        program: What the code does.
        promise: What it must do, if that is known.
        launches: Each launch with its node; an empty name if that is not known.
    """

    def __init__(
        self, program: Program, promise: Promise | None, launches: Sequence[tuple[Launch, str]]
    ) -> None:
        self.program, self.is_known = program, promise is not None
        self.nodes = {id(launch): node for launch, node in launches}
        self.unwaited = [c for c in promise.collectives if not c.waited] if promise else []
        self.flying: list[_Flight] = []
        self.received: set[int] = set()
        self.empty: set[int] = set()
        self.flown: set[int] = set()
        self.most = 0
        self.findings: list[Finding] = []
        self.slots = Slots(program, _slots(launches, promise))

    def follow(self, event: Event) -> None:
        """Note one event, and what it violates."""
        for rule, said in self.slots.follow(event):
            self._violated(rule, event.line, said)
        if isinstance(event, Made):
            self._touch(event, frozenset({event.buffer}), Rule.NOT_REUSED, "is reused")
            self.empty.add(event.buffer)
        elif isinstance(event, Use):
            self._use(event.line, event.by, event.reads, event.writes)
            self.empty -= event.writes
        elif isinstance(event, Launch):
            self._launch(event)
        elif isinstance(event, Wait):
            self._wait(event)
        elif isinstance(event, Freed):
            self._touch(event, frozenset({event.buffer}), Rule.NOT_FREED, "is freed")
        elif isinstance(event, Chosen):
            self._choose(event)
        elif isinstance(event, Returned):
            self._return(event)

    def _choose(self, event: Chosen) -> None:
        """Follow each way from here. What is in flight is the same after all of them."""
        before, after = frozenset(self.empty), set[int]()
        for way in event.ways:
            self.empty = set(before)
            for inner in way:
                self.follow(inner)
            after |= self.empty
        self.empty = after

    def _touch(self, event: Event, buffers: frozenset[int], rule: Rule, how: str) -> None:
        """Refuse anything at all that happens to a buffer in flight."""
        for flight in self.flying:
            if flight.awaited_here and (mine := (flight.sent | flight.received) & buffers):
                self._violated(
                    rule, event.line, f"{self.program.named(mine)} {how} while {flight.name}"
                )

    def _use(self, line: int, by: str, reads: frozenset[int], writes: frozenset[int]) -> None:
        for flight in self.flying:
            if mine := flight.received & (reads | writes):
                said = f"{by} uses {self.program.named(mine)} before the wait for {flight.name}"
                self._violated(Rule.USE_AFTER_WAIT, line, said)
            elif mine := flight.sent & writes:
                said = (
                    f"{by} overwrites {self.program.named(mine)} before the wait for {flight.name}"
                )
                self._violated(Rule.NOT_OVERWRITTEN, line, said)

    def _launch(self, launch: Launch) -> None:
        received = frozenset().union(*launch.received)
        sent = frozenset().union(*launch.sent)
        self._use(launch.line, launch.kind, sent, received & sent)
        if missing := sent & self.empty:
            said = f"{launch.kind} sends {self.program.named(missing)}, which nothing has written"
            self._violated(Rule.COMPUTED, launch.line, said)
        node = self.nodes[id(launch)]
        here = not any(c.matches(launch) and node in ("", c.name) for c in self.unwaited)
        for out, into in zip(launch.sent, launch.received, strict=True):
            self.flying.append(_Flight(launch, out, into, here))
        self.received |= received
        self.flown |= sent | received
        self.most = max(self.most, len(self.flying))

    def _wait(self, wait: Wait) -> None:
        landed = [f for f in self.flying if f.received & wait.buffers and _waits_for(wait, f)]
        known = self.received | {n for n, b in enumerate(self.program.buffers) if b.given}
        if not landed and not wait.buffers & known:
            said = f"waits for {self.program.named(wait.buffers)}, which no collective has sent"
            self._violated(Rule.WAIT_AFTER_LAUNCH, wait.line, said)
        self.flying = [flight for flight in self.flying if flight not in landed]

    def _return(self, event: Returned) -> None:
        for flight in self.flying:
            is_returned = bool(flight.received & event.buffers)
            if flight.awaited_here and (self.is_known or not is_returned):
                what = "is returned" if is_returned else "ends"
                said = f"{flight.name} {what} without a wait"
                self._violated(Rule.WAITED, flight.launch.line, said)

    def _violated(self, rule: Rule, line: int, why: str) -> None:
        self.findings.append(Finding(rule, line, why))


def _waits_for(wait: Wait, flight: _Flight) -> bool:
    """Return whether an operation that waits is the one for a collective."""
    start = STARTS.get(flight.launch.kind)
    return wait.command == (start.wait if start is not None else Wait.command)


def _slots(launches: Sequence[tuple[Launch, str]], promise: Promise | None) -> dict[int, str]:
    """Return what memory each start of the transport uses, by its identity, if that is known.

    Those of each group are in the order of the graph, or else the code is refused for that.
    """
    left: dict[str, list[Collective]] = defaultdict(list)
    for collective in promise.collectives if promise is not None else ():
        left[collective.group].append(collective)
    found = {id(event): left[event.group].pop(0).slot for event, _ in launches if left[event.group]}
    return {event: slot for event, slot in found.items() if slot}


def _launches(program: Program, names: Names) -> list[tuple[Launch, str]]:
    """Return the launches in order, each with its node if that is known."""
    left = {name: list(nodes) for name, nodes in names.launches.items()}
    launches = []
    for launch in (event for event in program.events if isinstance(event, Launch)):
        in_place = launch.sent == launch.received
        results = [program.buffers[n].name for part in launch.received for n in sorted(part)]
        nodes = [left[n].pop(0) for n in (launch.names if in_place else results) if left.get(n)]
        launches.append((launch, nodes[0] if nodes else ""))
    return launches


def _compared(
    launches: Sequence[tuple[Launch, str]], promise: Promise
) -> tuple[dict[str, tuple[str, ...]], list[Finding]]:
    """Return each group's order, and where it differs from that of the lowered graph."""
    wanted: dict[str, list[Collective]] = defaultdict(list)
    emitted: dict[str, list[tuple[Launch, str]]] = defaultdict(list)
    for collective in promise.collectives:
        wanted[collective.group].append(collective)
    for launch, node in launches:
        emitted[launch.group].append((launch, node))
    order, findings = {}, []
    for group in sorted({*wanted, *emitted}):
        order[group] = tuple(_identity(*launch) for launch in emitted[group])
        findings += _difference(group, emitted[group], wanted[group])
    return order, findings


def _identity(launch: Launch, node: str) -> str:
    """Return what ranks compare. Lists of sizes are left out: each rank has its own."""
    settings = [str(x) for x in launch.settings[:-1] if isinstance(x, (str, int))]
    return " ".join((launch.kind, *settings, node)).strip()


def _difference(
    group: str, emitted: Sequence[tuple[Launch, str]], wanted: Sequence[Collective]
) -> list[Finding]:
    """Return the first difference between a group's collectives in the code and in the graph."""
    for at, ((launch, node), collective) in enumerate(zip(emitted, wanted, strict=False)):
        if not collective.matches(launch) or node not in ("", collective.name):
            actual = f"{launch.kind} {launch.settings[:-1]} of {node or ', '.join(launch.names)}"
            said = f"collective {at} of group {group} is {actual}, not {collective.name}"
            return [Finding(Rule.SEQUENCE, launch.line, said)]
    if len(emitted) != len(wanted):
        said = f"group {group} has {len(emitted)} collectives instead of {len(wanted)}"
        more = emitted[len(wanted) :]
        return [Finding(Rule.SEQUENCE, more[0][0].line if more else 0, said)]
    return []


#: Picks one of several sets of buffers, by a key: ``max`` or ``min``.
Pick = Callable[..., set[int]]


def _peak(program: Program, promise: Promise, names: Names, pick: Pick) -> int:
    """Return the most bytes that are live at once; 0 if a size is not known.

    Args:
        program: What the code does.
        promise: What it must do.
        names: The sizes of buffers that the code does not tell.
        pick: Chooses among the buffers that the ways of a condition leave, by their bytes.
    """
    sizes: dict[int, int] = {}
    for number, buffer in enumerate(program.buffers):
        known = promise.input_bytes.get(buffer.name, 0) if buffer.given else buffer.bytes
        sizes[number] = names.bytes.get(buffer.name, 0) if known is None else known
    for event in program.events:
        if isinstance(event, Launch) and event.kind in STARTS and STARTS[event.kind].in_slot:
            sizes |= dict.fromkeys(event.received[0], 0)  # slots are not allocated by the code
    live = {n for n, buffer in enumerate(program.buffers) if buffer.given}
    return promise.held_bytes + _most(program.events, live, set(), sizes, pick)


def _most(
    events: Sequence[Event], live: set[int], gone: set[int], sizes: dict[int, int], pick: Pick
) -> int:
    """Return the most bytes that are live during events.

    Args:
        events: In order.
        live: The buffers that are live before; afterwards, those that are live then.
        gone: Those that have been freed, likewise.
        sizes: In bytes.
        pick: As for ``_peak``.
    """
    now = peak = sum(sizes[n] for n in live)
    for event in events:
        if isinstance(event, Chosen):
            ends = [(set(live), set(gone)) for _ in event.ways]
            ways = zip(event.ways, ends, strict=True)
            peaks = [_most(way, *end, sizes, pick) for way, end in ways]
            picked = pick((alive for alive, _ in ends), key=lambda x: sum(sizes[n] for n in x))
            gone |= live.union(*(alive for alive, _ in ends)) - picked
            live.clear()
            live.update(picked)
            now, peak = sum(sizes[n] for n in live), max(peak, *peaks)
            continue
        made = _made_by(event) - live - gone
        live |= made
        now += sum(sizes[n] for n in made)
        peak = max(peak, now)
        if isinstance(event, Freed) and event.buffer in live:
            live.discard(event.buffer)
            gone.add(event.buffer)
            now -= sizes[event.buffer]
    return peak


def _made_by(event: Event) -> set[int]:
    """Return the buffers that exist from an event on, if they did not before."""
    if isinstance(event, Made):
        return {event.buffer}
    if isinstance(event, Launch):
        return set().union(*event.received)
    return set(event.reads) if isinstance(event, Use) else set()


def _too_high(peak: int, promise: Promise) -> list[Finding]:
    allowed = promise.peak_bytes * (1 + TOLERANCE) + SLACK_BYTES
    if not promise.peak_bytes or peak <= allowed:
        return []
    said = f"live buffers reach {peak} bytes, predicted were {promise.peak_bytes}"
    return [Finding(Rule.PEAK, 0, said)]
