"""Slots in symmetric memory on GPUs, whose commands are copies and memory operations of streams."""

from __future__ import annotations

from collections.abc import Callable

import torch

from domino_compile._compat import symmetric as private
from domino_compile.transport.memory import Layout, Slot
from domino_compile.transport.protocol import Flag, Part


class SymmetricSlot(Slot):
    """A slot in symmetric memory. Making one is a collective of its group."""

    def __init__(
        self, layout: Layout, device: torch.device, group: str, meet: Callable[[], None]
    ) -> None:
        self.layout = layout
        self._buffer = private.SymmetricBuffer(layout.nbytes, device, group)
        self.rank = self._buffer.rank
        own = self._buffer.parts[self.rank]
        flags = layout.first_flags()
        own[: flags.numel() * 4].view(torch.int32).copy_(flags)
        torch.cuda.synchronize(device)
        meet()

    def memory(self, rank: int) -> torch.Tensor:
        """Return a rank's bytes."""
        part: torch.Tensor = self._buffer.parts[rank]
        return part

    def address(self, flag: Flag) -> int:
        """Return the address of a flag, as this GPU sees it."""
        return self._buffer.addresses[flag.holder] + self.layout.flag_offset(flag)


class StreamQueue:
    """Runs commands on one slot in the order of a CUDA stream."""

    def __init__(self, slot: SymmetricSlot, stream: torch.cuda.Stream) -> None:
        self._slot, self._stream = slot, stream

    def take(self, flag: Flag) -> None:
        """Wait until a flag is raised, and lower it; holds no multiprocessor."""
        private.take_values(self._stream, [self._slot.address(flag)])

    def put(self, flag: Flag) -> None:
        """Raise a flag of another rank."""
        private.put_values(self._stream, [self._slot.address(flag)])

    def compute(self, function: Callable[[], None]) -> None:
        """Run a function that launches kernels."""
        with torch.cuda.stream(self._stream):
            function()

    def copy(self, target: Part | torch.Tensor, source: Part | torch.Tensor) -> None:
        """Copy a payload; between GPUs a copy engine does it."""
        with torch.cuda.stream(self._stream):
            self._slot.copy(target, source)
