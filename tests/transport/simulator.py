"""Ranks whose queues run commands of the transport's protocol in any order that they may take.

Each rank has a compute queue and a side queue. A copy begins and ends in separate steps, so a
payload that is overwritten while it is read is noticed. Programs are lists of `Launch` and `Wait`.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from domino_compile.transport.protocol import Flag, Level, Member, Part

Payload = tuple[int, ...]


class Fault(Exception):
    """A payload was overwritten early, a signal was lost, or nothing can go on."""


@dataclass(frozen=True)
class Launch:
    """The launch of collective `number`, with the slot that it uses."""

    number: int
    kind: str
    slot: int


@dataclass(frozen=True)
class Wait:
    """The wait for a launch, with what reads its result."""

    launch: Launch


Program = list[Launch | Wait]


@dataclass(eq=False)
class Cell:
    """A payload in memory."""

    value: Any = None
    readers: int = 0
    written: bool = False


@dataclass
class Command:
    """One step of a queue: it runs once `ready` is true."""

    ready: Callable[[], bool]
    run: Callable[[], None]
    done: bool = False


@dataclass
class Recorder:
    """Turns commands on one slot into steps of a queue."""

    world: "World"
    slot: tuple[str, int]
    steps: list[Command] = field(default_factory=list)

    def take(self, flag: Flag) -> None:
        key = self.slot, flag
        flags = self.world.flags
        self.steps.append(Command(lambda: flags[key] == 1, lambda: flags.__setitem__(key, 0)))

    def put(self, flag: Flag) -> None:
        key = self.slot, flag

        def run() -> None:
            if self.world.flags[key]:
                raise Fault(f"signal lost: {key}")
            self.world.flags[key] = 1

        self.steps.append(Command(lambda: True, run))

    def copy(self, target: Part | Cell, source: Part | Cell) -> None:
        into, out_of = self.cell(target), self.cell(source)
        seen: list[Any] = []

        def begin() -> None:
            begin_reading(out_of, seen)
            if into.readers or into.written:
                raise Fault("overwritten while it is in use")
            into.written = True

        def end() -> None:
            end_reading(out_of, seen)
            into.written, into.value = False, seen[-1]

        self.steps += [Command(lambda: True, begin), Command(lambda: True, end)]

    def compute(self, function: Callable[[], None]) -> None:
        self.steps.append(Command(lambda: True, function))

    def cell(self, place: Part | Cell) -> Cell:
        return place if isinstance(place, Cell) else self.world.parts[self.slot, place]


def begin_reading(cell: Cell, seen: list[Any]) -> None:
    if cell.written:
        raise Fault("read while it is written")
    cell.readers += 1
    seen.append(cell.value)


def end_reading(cell: Cell, seen: list[Any]) -> None:
    cell.readers -= 1
    if cell.value != seen[-1]:
        raise Fault("changed while it was read")


class World:
    """All ranks, their memory and their queues."""

    def __init__(self, ranks: int, member: type[Member[Any]] = Member) -> None:
        self.ranks, self.member = ranks, member
        self.flags: dict[Any, int] = {}
        self.parts: dict[Any, Cell] = {}
        self.queues: list[list[Command]] = []
        self.got: list[list[Any]] = [[] for _ in range(ranks)]

    def add_slot(self, slot: tuple[str, int]) -> None:
        for holder in range(self.ranks):
            for peer in range(self.ranks):
                self.flags[slot, Flag(holder, Level.FULL, peer)] = 0
                self.flags[slot, Flag(holder, Level.EMPTY, peer)] = 1
                self.parts[slot, Part(holder, peer)] = Cell()

    def load(self, program: Program, replays: int, serial: bool) -> None:
        """Let every rank run a program some times, on two queues or (serial) on one."""
        for step in program:
            if isinstance(step, Launch):
                self.add_slot((step.kind, step.slot))
        for rank in range(self.ranks):
            compute: list[Command] = []
            side = compute if serial else []
            for replay in range(replays):
                self._load_rank(program, rank, replay, compute, side)
            self.queues += [compute] if serial else [compute, side]

    def _load_rank(
        self, program: Program, rank: int, replay: int, compute: list[Command], side: list[Command]
    ) -> None:
        results: dict[Launch, tuple[Recorder, list[Cell]]] = {}
        for step in program:
            if isinstance(step, Launch):
                recorder = Recorder(self, (step.kind, step.slot))
                forked = compute[-1] if compute else None
                cells = self._launch(step, rank, replay, recorder)
                side.append(Command(lambda f=forked: f is None or f.done, lambda: None))
                side.extend(recorder.steps)
                results[step] = recorder, cells
                continue
            recorder, cells = results[step.launch]
            last = recorder.steps[-1]
            compute.append(Command(lambda last=last: last.done, lambda: None))
            ends = Recorder(self, recorder.slot)
            self._finish(step.launch, rank, ends, cells)
            compute.extend(ends.steps)

    def _launch(self, step: Launch, rank: int, replay: int, queue: Recorder) -> list[Cell]:
        member = self.member(rank, self.ranks)
        pieces = [Cell((rank, to, step.number, replay)) for to in range(self.ranks)]
        if step.kind == "send":
            member.send(queue, pieces)
            return [queue.cell(Part(rank, peer)) for peer in range(self.ranks) if peer != rank]
        out = [Cell() for _ in range(self.ranks)]
        member.publish(queue, pieces[0])
        member.fetch(queue, out)
        return [cell for peer, cell in enumerate(out) if peer != rank]

    def _finish(self, step: Launch, rank: int, queue: Recorder, cells: list[Cell]) -> None:
        member = self.member(rank, self.ranks)
        if step.kind == "send":
            member.receive(queue)
        for cell in cells:
            seen: list[Any] = []
            queue.compute(lambda cell=cell, seen=seen: begin_reading(cell, seen))
            queue.compute(lambda cell=cell, seen=seen: end_reading(cell, seen))
            queue.compute(lambda seen=seen: self.got[rank].append(seen[-1]))
        if step.kind == "send":
            member.release(queue)

    def run(self, order: random.Random) -> None:
        """Run every queue to its end, one step of any of them at a time.

        Raises:
            Fault: Something went wrong.
        """
        places = [0] * len(self.queues)
        while True:
            left = [i for i, queue in enumerate(self.queues) if places[i] < len(queue)]
            if not left:
                return
            able = [i for i in left if self.queues[i][places[i]].ready()]
            if not able:
                raise Fault("deadlock")
            chosen = order.choice(able)
            # Some runs let one queue go far ahead of the others.
            for _ in range(order.choice((1, 1, 2, 9))):
                if places[chosen] == len(self.queues[chosen]):
                    break
                command = self.queues[chosen][places[chosen]]
                if not command.ready():
                    break
                command.run()
                command.done = True
                places[chosen] += 1


def expected(program: Program, ranks: int, rank: int, replays: int) -> list[Payload]:
    """Return what a rank reads, in order."""
    return [
        (peer, rank if step.launch.kind == "send" else 0, step.launch.number, replay)
        for replay in range(replays)
        for step in program
        if isinstance(step, Wait)
        for peer in range(ranks)
        if peer != rank
    ]
