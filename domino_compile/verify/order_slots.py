"""The transport's slots in emitted code.

They are waited for, read, released and used again in this order (``slots``: the same of graphs).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from domino_compile.verify.emitted_events import (
    Event,
    Launch,
    Made,
    Program,
    Released,
    Returned,
    Use,
    Wait,
)
from domino_compile.verify.order_certificate import Rule
from domino_compile.verify.transported import STARTS

#: What is violated, and how.
Violation: TypeAlias = tuple[Rule, str]


@dataclass
class _Loan:
    """A start whose slot is in use."""

    launch: Launch
    slot: str
    waited: bool = False

    @property
    def received(self) -> frozenset[int]:
        return self.launch.received[0]

    @property
    def name(self) -> str:
        return self.launch.title


class Slots:
    """Follows the slots through the events of a program.

    Args:
        program: What the code does.
        slots: What memory each start uses, by the identity of its event, where that is known. Two
            starts of which it is not known are taken to share a slot if its number is the same.
    """

    def __init__(self, program: Program, slots: Mapping[int, str]) -> None:
        self._program, self._slots = program, slots
        self._loans: list[_Loan] = []
        self._inside: frozenset[int] = frozenset()
        self._gone: frozenset[int] = frozenset()

    def follow(self, event: Event) -> Iterator[Violation]:
        """Yield what an event violates; the ways of a condition are followed one by one."""
        if isinstance(event, Launch):
            yield from self._read(event.kind, frozenset().union(*event.sent))
            if event.kind in STARTS:
                yield from self._start(event)
        elif isinstance(event, Wait):
            yield from self._wait(event)
        elif isinstance(event, Released):
            yield from self._release(event)
        elif isinstance(event, Use):
            yield from self._read(event.by, event.reads | event.writes)
        elif isinstance(event, Made) and event.buffer in self._inside:
            said = f"{self._program.named({event.buffer})}, which lies in a slot, is reused"
            yield Rule.NOT_REUSED, said
        elif isinstance(event, Returned):
            yield from self._end(event)

    def _start(self, launch: Launch) -> Iterator[Violation]:
        start = STARTS[launch.kind]
        number, group = launch.settings
        slot = self._slots.get(id(launch)) or f"{start.use} slot {number} of group {group}"
        for loan in self._loans:
            if loan.slot == slot:
                yield Rule.NOT_REUSED, f"{launch.kind} takes the slot that {loan.name} still uses"
        self._loans.append(_Loan(launch, slot))
        if start.in_slot:
            self._inside |= launch.received[0]

    def _wait(self, wait: Wait) -> Iterator[Violation]:
        for loan in [x for x in self._loans if x.received & wait.buffers]:
            start, launch = STARTS[loan.launch.kind], loan.launch
            named = wait.command == start.wait and wait.settings == launch.settings
            if named and wait.sent == launch.sent[0] and not loan.waited:
                loan.waited = True
                if not start.release:
                    self._loans.remove(loan)
                return
        if wait.command != Wait.command:
            what = f"{wait.command} of {self._program.named(wait.buffers)}"
            yield Rule.WAIT_AFTER_LAUNCH, f"{what} is for no collective in flight"

    def _release(self, event: Released) -> Iterator[Violation]:
        for loan in [x for x in self._loans if x.received & event.buffers]:
            kind = STARTS[loan.launch.kind].release
            named = event.command == kind and event.settings == loan.launch.settings
            if named and loan.waited:
                self._loans.remove(loan)
                self._gone |= loan.received
                return
        said = (
            f"{event.command} of {self._program.named(event.buffers)} is for no slot that is in use"
        )
        yield Rule.IN_SLOT, said

    def _read(self, by: str, buffers: frozenset[int]) -> Iterator[Violation]:
        if mine := buffers & self._gone:
            yield (
                Rule.IN_SLOT,
                f"{by} uses {self._program.named(mine)} after the release of its slot",
            )

    def _end(self, event: Returned) -> Iterator[Violation]:
        for loan in self._loans:
            if loan.waited:
                yield Rule.IN_SLOT, f"nothing releases the slot of {loan.name}"
        if mine := event.buffers & self._inside:
            yield Rule.IN_SLOT, f"{self._program.named(mine)}, which lies in a slot, is returned"
