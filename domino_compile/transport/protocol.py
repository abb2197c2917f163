"""The order of copies and signals in which ranks exchange payloads through slots.

A *slot* is a buffer on every rank of a group that one collective uses at a time. For each ordered
pair of ranks, a producer and a consumer, it has two flags: ``FULL`` in the consumer's memory and
``EMPTY`` in the producer's. At first every slot is empty. ``take`` waits until a flag is raised
and then lowers it; ``put`` raises it. Flags are binary and commands contain no counters, so a CUDA
graph can replay them any number of times, and replays and eager calls may alternate.

**No payload is overwritten early.** A producer writes a slot after it took ``EMPTY``, which its
consumer puts after everything that reads the slot, in the order of one queue.

**No signal is lost.** A consumer puts ``EMPTY`` after it took ``FULL``, which the producer puts
after it took ``EMPTY``. So the two alternate, and each flag is lowered before it is raised again.

**No deadlock.** All ranks run the same collectives in the same order. Every ``take`` waits for a
``put`` that comes earlier in that order, if these rules are kept:

1. One queue, the *side queue*, runs all sends, publications and fetches of a device, for all
   groups, in the order in which the program launches them.
2. A slot that the compute queue reads (``receive`` and ``release``) is used again only by a
   collective that the program launches after that release.

So by induction over the order every ``take`` returns, even if a rank runs all its commands one
after the other. An action may be delayed by any action before it, but never by a later one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Protocol, TypeVar


class Level(Enum):
    """The two flags of a producer, a consumer and a slot."""

    FULL = 0
    EMPTY = 1


@dataclass(frozen=True)
class Flag:
    """A flag of one slot.

    Attributes:
        holder: The rank in whose memory it is, which takes it.
        level: Which of the two flags it is.
        peer: The rank that puts it.
    """

    holder: int
    level: Level
    peer: int


@dataclass(frozen=True)
class Part:
    """One part of a slot's buffer.

    Attributes:
        holder: The rank in whose memory it is.
        source: The rank whose payload it holds.
    """

    holder: int
    source: int


P = TypeVar("P")
P_contra = TypeVar("P_contra", contravariant=True)


class Queue(Protocol[P_contra]):
    """Runs commands of one slot in order; ``P`` is a payload in ordinary memory."""

    def take(self, flag: Flag) -> None:
        """Wait until a flag of this rank is raised, and lower it."""

    def put(self, flag: Flag) -> None:
        """Raise a flag of another rank, after all commands before it are complete."""

    def copy(self, target: Part | P_contra, source: Part | P_contra) -> None:
        """Copy a payload; at most one side is another rank's memory."""


@dataclass(frozen=True)
class Member(Generic[P]):
    """One rank of a group.

    Attributes:
        rank: Its rank in the group.
        ranks: The size of the group.
    """

    rank: int
    ranks: int

    @property
    def peers(self) -> list[int]:
        """The other ranks from the next one on, so that no two ranks begin with the same."""
        return [(self.rank + step) % self.ranks for step in range(1, self.ranks)]

    def send(self, queue: Queue[P], pieces: Sequence[P]) -> None:
        """Write each peer's piece into the peer's slot."""
        for peer in self.peers:
            queue.take(Flag(self.rank, Level.EMPTY, peer))
            queue.copy(Part(peer, self.rank), pieces[peer])
            queue.put(Flag(peer, Level.FULL, self.rank))

    def receive(self, queue: Queue[P]) -> None:
        """Wait until all peers have written into this rank's slot."""
        for peer in self.peers:
            queue.take(Flag(self.rank, Level.FULL, peer))

    def release(self, queue: Queue[P]) -> None:
        """Let all peers write into this rank's slot again; its readers come before."""
        for peer in self.peers:
            queue.put(Flag(peer, Level.EMPTY, self.rank))

    def publish(self, queue: Queue[P], payload: P | None) -> None:
        """Put a payload into this rank's slot for all peers to fetch; ``None``: it is there."""
        for peer in self.peers:
            queue.take(Flag(self.rank, Level.EMPTY, peer))
        if payload is not None:
            queue.copy(Part(self.rank, self.rank), payload)
        for peer in self.peers:
            queue.put(Flag(peer, Level.FULL, self.rank))

    def fetch(self, queue: Queue[P], pieces: Sequence[P]) -> None:
        """Read what each peer has published, in place of the peer's piece."""
        for peer in self.peers:
            queue.take(Flag(self.rank, Level.FULL, peer))
            queue.copy(pieces[peer], Part(peer, peer))
            queue.put(Flag(peer, Level.EMPTY, self.rank))
