"""The transport of one process group: its slots, its side queue, and the collectives on them.

A collective has a *launch* on the side queue and a *wait* on the compute queue. What a rank
receives by ``send`` or ``gather`` lies in its slot until ``release`` or ``leave``.

The side queue has only copies between ranks, which copy engines do. A copy within a GPU is a
kernel, and a kernel cannot begin beside a matrix product that fills the GPU. So such copies are on
the compute queue, except in the all-reduce of more than two ranks.
"""

from __future__ import annotations

import functools
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch

from domino_compile import _compat
from domino_compile.transport.memory import Layout, Slot, rounded_up
from domino_compile.transport.protocol import Member, Part
from domino_compile.transport.shared import SharedSlot, ThreadQueue, TransportError
from domino_compile.transport.symmetric import StreamQueue, SymmetricSlot


class Use(Enum):
    """What slots are used for."""

    #: Payloads that peers send.
    INBOX = "inbox"
    #: The result of an all-gather: what peers send, and a rank's own payload.
    GATHERED = "gathered"
    #: An inbox that the side queue reads, and the sums that it makes of it, which peers fetch.
    SUMMANDS = "summands"
    SUMS = "sums"

    def parts(self, ranks: int) -> int:
        """Return the number of parts of the buffer in a group of some ranks."""
        if self is Use.SUMS:
            return 1
        return ranks if self is Use.GATHERED else ranks - 1


@dataclass(frozen=True)
class Key:
    """Names a slot of a group.

    Attributes:
        use: What it is used for.
        part_bytes: The bytes of one part (``memory.rounded_up``).
        number: Its number among those of the same use and size.
    """

    use: Use
    part_bytes: int
    number: int


@dataclass
class Wire(ABC):
    """The transport of one group in this process.

    Attributes:
        group: The name of the group.
        member: This rank in the group.
        slots: The slots made so far.
    """

    group: str
    member: Member[torch.Tensor]
    slots: dict[Key, Slot] = field(default_factory=dict)
    _pending: dict[Key, tuple[Any, Any]] = field(default_factory=dict)

    @abstractmethod
    def new_slot(self, key: Key, layout: Layout) -> Slot:
        """Make a slot, with all ranks of the group."""

    @abstractmethod
    def launch(self, slot: Slot, commands: Callable[[Any], None]) -> Any:
        """Run commands on the side queue, after the compute queue's work so far.

        Returns:
            Something to ``join``.
        """

    @abstractmethod
    def join(self, launched: Any) -> None:
        """Let the compute queue wait for launched commands."""

    @abstractmethod
    def compute_queue(self, slot: Slot) -> Any:
        """Return the compute queue, for commands on a slot."""

    def slot(self, use: Use, payload: torch.Tensor, number: int) -> tuple[Key, Slot]:
        """Return the slot for payloads like one, made at its first use."""
        key = Key(use, rounded_up(payload.numel() * payload.element_size()), number)
        if key not in self.slots:
            ranks = self.member.ranks
            layout = Layout(ranks, key.part_bytes, use.parts(ranks))
            self.slots[key] = self.new_slot(key, layout)
        return key, self.slots[key]

    def _join(self, key: Key) -> None:
        done, _sent = self._pending.pop(key)
        self.join(done)

    @property
    def bytes_held(self) -> int:
        """The bytes of all slots on this rank."""
        return sum(slot.layout.nbytes for slot in self.slots.values())

    def send(self, pieces: Sequence[torch.Tensor], number: int) -> torch.Tensor:
        """Start to send each peer its piece, all of one shape; return what this rank receives.

        Args:
            pieces: One contiguous piece for each rank; they must live until the wait.
            number: The number of the inbox slot.

        Returns:
            The peers' pieces in the order of their ranks, ``(ranks - 1, *shape)``. They may be read
            after ``received`` and until ``release``.
        """
        own = pieces[self.member.rank]
        key, slot = self.slot(Use.INBOX, own, number)
        done = self.launch(slot, lambda queue: self.member.send(queue, pieces))
        self._pending[key] = done, pieces
        return slot.received(self.member.rank, own)

    def received(self, piece: torch.Tensor, number: int) -> None:
        """Wait until pieces like one are sent and received."""
        key, slot = self.slot(Use.INBOX, piece, number)
        self._join(key)
        self.member.receive(self.compute_queue(slot))

    def release(self, piece: torch.Tensor, number: int) -> None:
        """Let peers use an inbox slot again; all readers have been launched."""
        _, slot = self.slot(Use.INBOX, piece, number)
        self.member.release(self.compute_queue(slot))

    def gather(self, shard: torch.Tensor, number: int) -> torch.Tensor:
        """Start to gather a contiguous shard of each rank, which must live until the wait.

        Returns:
            The shards of all ranks, ``(ranks, *shape)``. They may be read after ``gathered`` and
            until ``leave``.
        """
        key, slot = self.slot(Use.GATHERED, shard, number)
        pieces = [shard] * self.member.ranks
        done = self.launch(slot, lambda queue: self.member.send(queue, pieces))
        self._pending[key] = done, shard
        return slot.gathered(self.member.rank, shard)

    def gathered(self, shard: torch.Tensor, number: int) -> None:
        """Wait until shards like one are sent and received, and put this rank's beside them."""
        key, slot = self.slot(Use.GATHERED, shard, number)
        self._join(key)
        queue, rank = self.compute_queue(slot), self.member.rank
        self.member.receive(queue)
        queue.copy(Part(rank, rank), shard)

    def leave(self, shard: torch.Tensor, number: int) -> None:
        """Let peers use the slot of gathered shards again; all readers have been launched."""
        _, slot = self.slot(Use.GATHERED, shard, number)
        self.member.release(self.compute_queue(slot))

    def all_reduce(self, value: torch.Tensor, out: torch.Tensor, number: int) -> None:
        """Start to sum contiguous values into ``out``, whose elements the ranks can divide.

        Each rank sums one chunk on the side queue, in float32 and in the order of the ranks.
        """
        member = self.member
        pieces, results = value.view(-1).chunk(member.ranks), out.view(-1).chunk(member.ranks)
        own, result = pieces[member.rank], results[member.rank]
        _, inbox = self.slot(Use.SUMMANDS, own, number)
        key, outbox = self.slot(Use.SUMS, own, number)
        peers = inbox.received(member.rank, own)
        parts = [*peers[: member.rank], own, *peers[member.rank :]]

        def scatter(queue: Any) -> None:
            member.send(queue, pieces)
            member.receive(queue)
            queue.compute(lambda: add_up(parts, result))
            member.release(queue)

        def gather(queue: Any) -> None:
            member.publish(queue, result)
            member.fetch(queue, results)

        self.launch(inbox, scatter)
        self._pending[key] = self.launch(outbox, gather), value

    def all_reduced(self, value: torch.Tensor, number: int) -> None:
        """Wait until ``all_reduce`` of a value like one is complete."""
        own = value.view(-1).chunk(self.member.ranks)[self.member.rank]
        self._join(self.slot(Use.SUMS, own, number)[0])


class CudaWire(Wire):
    """The transport between GPUs."""

    def new_slot(self, key: Key, layout: Layout) -> Slot:
        """Make a slot in symmetric memory, with all ranks of the group."""
        if torch.cuda.is_current_stream_capturing():
            raise TransportError(
                "transport='symmetric' allocates its buffers when a collective first runs, which a"
                " CUDA graph cannot capture: run the program once before capturing it"
            )
        device = torch.device("cuda", torch.cuda.current_device())
        meet = functools.partial(_exchange, self.group, f"{key} ready", "")
        return SymmetricSlot(layout, device, self.group, lambda: _ignore(meet()))

    def launch(self, slot: Slot, commands: Callable[[Any], None]) -> Any:
        """Run commands on the device's side stream."""
        assert isinstance(slot, SymmetricSlot)
        side = side_stream(torch.cuda.current_device())
        side.wait_stream(torch.cuda.current_stream())
        commands(StreamQueue(slot, side))
        event = torch.cuda.Event()
        event.record(side)
        return event

    def join(self, launched: Any) -> None:
        """Let the current stream wait for launched commands."""
        torch.cuda.current_stream().wait_event(launched)

    def compute_queue(self, slot: Slot) -> Any:
        """Return the current stream as a queue."""
        assert isinstance(slot, SymmetricSlot)
        return StreamQueue(slot, torch.cuda.current_stream())


class SharedWire(Wire):
    """The transport between processes of one host."""

    def new_slot(self, key: Key, layout: Layout) -> Slot:
        """Make a slot in shared memory, with all ranks of the group."""
        exchange = functools.partial(_exchange, self.group, str(key))
        timeout_s = min(_compat.group_timeout_s(self.group), 24 * 3600.0)
        return SharedSlot(layout, self.member.rank, exchange, timeout_s)

    def launch(self, slot: Slot, commands: Callable[[Any], None]) -> Any:
        """Run commands in the side thread."""
        assert isinstance(slot, SharedSlot)
        return side_thread().submit(commands, ThreadQueue(slot))

    def join(self, launched: Future[None]) -> None:
        """Wait for launched commands; an error of theirs is raised here."""
        launched.result()

    def compute_queue(self, slot: Slot) -> Any:
        """Return the calling thread as a queue."""
        assert isinstance(slot, SharedSlot)
        return ThreadQueue(slot)


@functools.cache
def side_stream(device: int) -> torch.cuda.Stream:
    """Return the one side stream of a GPU."""
    return torch.cuda.Stream(device)


@functools.cache
def side_thread() -> ThreadPoolExecutor:
    """Return the one side thread of this process."""
    return ThreadPoolExecutor(1, "domino-transport")


def add_up(parts: Sequence[torch.Tensor], out: torch.Tensor) -> None:
    """Add tensors up in order, low precisions in float32, and round once."""
    wide = torch.promote_types(out.dtype, torch.float32) if out.is_floating_point() else out.dtype
    total = parts[0].to(wide)
    for part in parts[1:]:
        total = total + part
    out.copy_(total)


def _ignore(_: object) -> None:
    """Drop a result."""


_rounds: dict[tuple[str, str], int] = {}


def _exchange(group: str, topic: str, text: str) -> list[str]:
    """Give every rank of a group the texts of all, by rank.

    Raises:
        TransportError: The group's ranks share no store.
    """
    shared = _compat.shared_store(group)
    if shared is None:
        raise TransportError(f"the ranks of group {group} share no store")
    store, ranks, rank = shared
    number = _rounds[group, topic] = _rounds.get((group, topic), -1) + 1
    prefix = f"domino transport {group} {topic} {number}"
    store.set(f"{prefix} {rank}", text or " ")
    return [store.get(f"{prefix} {other}").decode().strip() for other in range(len(ranks))]


_wires: dict[tuple[str, str], tuple[weakref.ref[Any], Wire]] = {}


def wire_of(group: str, device_type: str) -> Wire:
    """Return the transport of a group, which lives as long as the group."""
    key = group, device_type
    process_group = _compat.group_named(group)
    known = _wires.get(key)
    if known is None or known[0]() is not process_group:
        kind = CudaWire if device_type == "cuda" else SharedWire
        member = Member[torch.Tensor](process_group.rank(), process_group.size())
        gone = weakref.ref(process_group, lambda _: _ignore(_wires.pop(key, None)))
        known = _wires[key] = gone, kind(group, member)
    return known[1]
