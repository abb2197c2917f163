"""The transport's protocol, with every order of the ranks' queues: right payloads, no deadlock."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domino_compile.transport.protocol import Flag, Level, Member, Part, Queue
from tests.transport.simulator import Fault, Launch, Program, Wait, World, expected


@st.composite
def programs(draw: st.DrawFn, slots: int = 2) -> Program:
    """Launches and waits; a slot is free again after the wait of its collective."""
    free = {kind: list(range(slots)) for kind in ("send", "gather")}
    flying: list[Launch] = []
    program: Program = []
    for number in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(("send", "gather")))
        while flying and (not free[kind] or draw(st.booleans())):
            launch = flying.pop(draw(st.integers(0, len(flying) - 1)))
            free[launch.kind].append(launch.slot)
            program.append(Wait(launch))
        slot = free[kind].pop(draw(st.integers(0, len(free[kind]) - 1)))
        flying.append(Launch(number, kind, slot))
        program.append(flying[-1])
    return [*program, *map(Wait, draw(st.permutations(flying)))]


def run(
    program: Program,
    ranks: int,
    seed: int,
    replays: int = 2,
    serial: bool = False,
    member: type[Member[Any]] = Member,
) -> World:
    world = World(ranks, member)
    world.load(program, replays, serial)
    world.run(random.Random(seed))
    return world


@given(programs(), st.integers(2, 4), st.integers(0, 2**32), st.booleans())
def test_every_rank_reads_what_its_peers_sent(
    program: Program, ranks: int, seed: int, serial: bool
) -> None:
    """Also if each rank runs all commands in one queue, which the proof relies on."""
    world = run(program, ranks, seed, replays=2, serial=serial)
    for rank, got in enumerate(world.got):
        assert got == expected(program, ranks, rank, replays=2)
    assert all(value == (flag.level is Level.EMPTY) for (_, flag), value in world.flags.items())


class WithoutEmpty(Member[Any]):
    """Does not wait until a slot is empty."""

    def send(self, queue: Queue[Any], pieces: Sequence[Any]) -> None:
        for peer in self.peers:
            queue.copy(Part(peer, self.rank), pieces[peer])
            queue.put(Flag(peer, Level.FULL, self.rank))

    def release(self, queue: Queue[Any]) -> None:
        pass


class EarlySignal(Member[Any]):
    """Says that a slot is full before it is."""

    def send(self, queue: Queue[Any], pieces: Sequence[Any]) -> None:
        for peer in self.peers:
            queue.take(Flag(self.rank, Level.EMPTY, peer))
            queue.put(Flag(peer, Level.FULL, self.rank))
            queue.copy(Part(peer, self.rank), pieces[peer])


class EarlyAnswer(Member[Any]):
    """Says that it has fetched before it has."""

    def fetch(self, queue: Queue[Any], pieces: Sequence[Any]) -> None:
        for peer in self.peers:
            queue.take(Flag(self.rank, Level.FULL, peer))
            queue.put(Flag(peer, Level.EMPTY, self.rank))
            queue.copy(pieces[peer], Part(peer, peer))


def one_after_the_other(kind: str) -> Program:
    launches = [Launch(number, kind, 0) for number in range(3)]
    return [step for launch in launches for step in (launch, Wait(launch))]


@pytest.mark.parametrize(
    ("kind", "wrong"), [("send", WithoutEmpty), ("send", EarlySignal), ("gather", EarlyAnswer)]
)
def test_a_wrong_protocol_is_noticed(kind: str, wrong: type[Member[Any]]) -> None:
    program = one_after_the_other(kind)
    with pytest.raises(Fault):
        for seed in range(200):
            world = run(program, 2, seed, member=wrong)
            if world.got[0] != expected(program, 2, 0, replays=2):
                raise Fault("other payloads")


def test_a_slot_that_is_used_again_before_its_release_can_deadlock() -> None:
    """The rule that the pass ``transport`` keeps is needed."""
    first, second = Launch(0, "send", 0), Launch(1, "send", 0)
    program: Program = [first, second, Wait(second), Wait(first)]
    with pytest.raises(Fault):
        for seed in range(200):
            run(program, 2, seed)
