"""What emitted code does to its buffers: the events that ``emitted`` reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


class Unreadable(Exception):
    """The emitted code is not understood, so nothing is established about it."""


@dataclass
class Buffer:
    """A piece of memory.

    Attributes:
        name: Its first name in the code.
        bytes: Its size; ``None`` if the code does not say.
        given: Whether it is an input of the graph, which the caller made.
    """

    name: str
    bytes: int | None = None
    given: bool = False


@dataclass(frozen=True)
class Event:
    """Something that the code does, in the order in which it does it.

    Attributes:
        line: The line of the emitted code.
    """

    line: int


@dataclass(frozen=True)
class Made(Event):
    """A buffer is allocated, or gets a new name because its old content is no longer needed."""

    buffer: int


@dataclass(frozen=True)
class Launch(Event):
    """A collective begins.

    Attributes:
        kind: ``all_reduce``, ``all_gather_into_tensor``, or a start of the transport.
        settings: Its arguments besides tensors: the reduction, the number of ranks, the group; of a
            start the slot and the group.
        names: The names of its tensors in the code.
        shapes: Their shapes, as the code writes them; empty if it does not.
        sent: The buffers that it reads.
        received: The buffers that it writes, one set per tensor. The same for one in place.
    """

    kind: str
    settings: tuple[object, ...]
    names: tuple[str, ...]
    shapes: tuple[str, ...]
    sent: tuple[frozenset[int], ...]
    received: tuple[frozenset[int], ...]

    @property
    def group(self) -> str:
        """Return the name of its process group."""
        return str(self.settings[-1])

    @property
    def title(self) -> str:
        """Return what it is, and where."""
        return f"{self.kind} of {', '.join(self.names)} (line {self.line})"


@dataclass(frozen=True)
class Wait(Event):
    """The code waits for the collective that writes these buffers.

    Attributes:
        buffers: What the collective writes.
        command: The name of the operation that waits.
        sent: What the collective has sent; empty if the operation does not say.
        settings: Its slot and its group; empty if it has none.
    """

    buffers: frozenset[int]
    command: str = "wait_tensor"
    sent: frozenset[int] = frozenset()
    settings: tuple[object, ...] = ()


@dataclass(frozen=True)
class Released(Event):
    """The code ends the use of a slot of the transport.

    Attributes:
        buffers: What lies in the slot.
        command: The name of the operation.
        settings: Its slot and its group.
    """

    buffers: frozenset[int]
    command: str
    settings: tuple[object, ...]


@dataclass(frozen=True)
class Use(Event):
    """A kernel or another function runs.

    Attributes:
        by: Its name.
        reads: The buffers that it may read.
        writes: The buffers that it may write.
    """

    by: str
    reads: frozenset[int]
    writes: frozenset[int]


@dataclass(frozen=True)
class Freed(Event):
    """The last name of a buffer goes away."""

    buffer: int


@dataclass(frozen=True)
class Chosen(Event):
    """One of several sequences of events happens, which is known only when the program runs.

    Attributes:
        ways: The events of each. None of them launches a collective or waits for one.
    """

    ways: tuple[tuple[Event, ...], ...]


@dataclass(frozen=True)
class Returned(Event):
    """The graph returns these buffers."""

    buffers: frozenset[int]


@dataclass
class Program:
    """The events of one emitted program.

    Attributes:
        buffers: All buffers; events number them.
        events: In order.
    """

    buffers: list[Buffer] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def named(self, buffers: Iterable[int]) -> str:
        """Return the names of buffers, for messages."""
        return ", ".join(self.buffers[n].name or "a result" for n in sorted(buffers))


@dataclass(frozen=True)
class Value:
    """What a name stands for: buffers, as members if it is a list of tensors.

    Attributes:
        buffers: The buffers.
        members: What the members of a list stand for.
        apart: Whether it is the result of an operation whose results share no memory with its
            arguments, nor with one another if they are several.
    """

    buffers: frozenset[int] = frozenset()
    members: tuple[Value, ...] = ()
    apart: bool = False

    @property
    def all(self) -> frozenset[int]:
        """Return the buffers of the value and its members."""
        return self.buffers.union(*(m.all for m in self.members))


NOTHING = Value()
NONE: frozenset[int] = frozenset()
