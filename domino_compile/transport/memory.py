"""What a slot needs of memory, and how it is laid out in bytes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from domino_compile.transport.protocol import Flag, Level, Part

#: Slots begin at multiples of this, which copy engines and vectorised loads like.
ALIGNMENT = 1024
_FLAG = 4


def rounded_up(nbytes: int) -> int:
    """Return the size of the slot for a payload: the next of four sizes between powers of two.

    Payloads of nearly the same size share slots, and at most a quarter of a slot is unused.
    """
    if nbytes <= ALIGNMENT:
        return ALIGNMENT
    step = max(ALIGNMENT, 1 << max(0, (nbytes - 1).bit_length() - 3))
    return -(-nbytes // step) * step


@dataclass(frozen=True)
class Layout:
    """The bytes of one slot on one rank: its flags, and then the parts of its buffer.

    Attributes:
        ranks: The size of the group.
        part_bytes: The bytes of one part.
        parts: The number of parts: one for each rank, for each peer, or one that all peers read.
    """

    ranks: int
    part_bytes: int
    parts: int

    @property
    def flags_bytes(self) -> int:
        """The bytes of the flags, rounded up."""
        return -(-2 * self.ranks * _FLAG // ALIGNMENT) * ALIGNMENT

    @property
    def nbytes(self) -> int:
        """All bytes on one rank."""
        return self.flags_bytes + self.parts * self.part_bytes

    def flag_index(self, flag: Flag) -> int:
        """Return the place of a flag among its holder's 32-bit words."""
        return flag.level.value * self.ranks + flag.peer

    def flag_offset(self, flag: Flag) -> int:
        """Return the byte at which a flag begins in its holder's memory."""
        return self.flag_index(flag) * _FLAG

    def part_offset(self, part: Part, nbytes: int) -> int:
        """Return the byte at which a part of some bytes begins in its holder's memory.

        Parts are in the order of the ranks and without gaps, so that they are one tensor. Where
        only peers have parts, the rank itself has no place in that order.
        """
        if self.parts == self.ranks:
            return self.flags_bytes + part.source * nbytes
        if part.source == part.holder:
            return self.flags_bytes
        index = part.source - (part.source > part.holder)
        return self.flags_bytes + index * nbytes

    def first_flags(self) -> torch.Tensor:
        """Return the flags of an empty slot."""
        flags = torch.zeros(2 * self.ranks, dtype=torch.int32)
        flags[Level.EMPTY.value * self.ranks :] = 1
        return flags


class Slot(ABC):
    """One slot as this process sees it: the memory of all ranks, and commands on it."""

    layout: Layout

    @abstractmethod
    def memory(self, rank: int) -> torch.Tensor:
        """Return a rank's bytes."""

    def tensor(self, part: Part, like: torch.Tensor) -> torch.Tensor:
        """Return a part as a tensor of the shape and type of another."""
        return self.view(part, tuple(like.shape), like.dtype)

    def copy(self, target: Part | torch.Tensor, source: Part | torch.Tensor) -> None:
        """Copy a payload between a part and ordinary memory, or within the latter."""
        if isinstance(target, torch.Tensor):
            if isinstance(source, Part):
                source = self.tensor(source, target)
            target.copy_(source)
        else:
            assert isinstance(source, torch.Tensor)
            self.tensor(target, source).copy_(source)

    def view(self, part: Part, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return a part as a contiguous tensor."""
        nbytes = dtype.itemsize * math.prod(shape)
        start = self.layout.part_offset(part, nbytes)
        return self.memory(part.holder)[start : start + nbytes].view(dtype).view(shape)

    def gathered(self, rank: int, piece: torch.Tensor) -> torch.Tensor:
        """Return the parts of all ranks, each like one tensor, in a rank's memory."""
        return self._pieces(rank, self.layout.ranks, piece)

    def received(self, rank: int, piece: torch.Tensor) -> torch.Tensor:
        """Return what a rank receives if every peer sends a tensor like one, by peer."""
        return self._pieces(rank, self.layout.ranks - 1, piece)

    def _pieces(self, rank: int, count: int, piece: torch.Tensor) -> torch.Tensor:
        """Return the first parts in a rank's memory, each like one tensor."""
        nbytes, begin = piece.numel() * piece.element_size(), self.layout.flags_bytes
        raw = self.memory(rank)[begin : begin + count * nbytes]
        return raw.view(piece.dtype).view(count, *piece.shape)
