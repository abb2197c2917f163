"""Slots in memory that processes of one host share, with a thread as the side queue.

This is the transport on the CPU: the protocol, the operations and the passes run on it as they do
on GPUs, so that they can be tested with real ranks and numbers.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from domino_compile.errors import DominoError
from domino_compile.transport.memory import Layout, Slot
from domino_compile.transport.protocol import Flag, Part

#: How long to sleep between two looks at a flag.
_PAUSE_S = 50e-6


class TransportError(DominoError, RuntimeError):
    """A transport cannot go on. The message says which rank was waited for."""


class SharedSlot(Slot):
    """A slot in files that all ranks map into memory. Making one is a collective of its group."""

    def __init__(
        self,
        layout: Layout,
        rank: int,
        exchange: Callable[[str], list[str]],
        timeout_s: float,
    ) -> None:
        self.layout, self.timeout_s = layout, timeout_s
        folder = "/dev/shm" if Path("/dev/shm").is_dir() else None
        handle, own = tempfile.mkstemp(prefix="domino-slot-", dir=folder)
        try:
            os.truncate(handle, layout.nbytes)
            os.close(handle)
            flags = layout.first_flags()
            self._map(own)[: flags.numel() * 4].view(torch.int32).copy_(flags)
            self._ranks = [self._map(path) for path in exchange(own)]
            exchange("")
        finally:
            os.unlink(own)

    def _map(self, path: str) -> torch.Tensor:
        return torch.from_file(path, shared=True, size=self.layout.nbytes, dtype=torch.uint8)

    def memory(self, rank: int) -> torch.Tensor:
        """Return a rank's bytes."""
        return self._ranks[rank]

    def flag(self, flag: Flag) -> torch.Tensor:
        """Return a flag, a tensor of one word."""
        index = self.layout.flag_index(flag)
        return self.memory(flag.holder)[4 * index : 4 * index + 4].view(torch.int32)


class ThreadQueue:
    """Runs commands on one slot at once, in the thread that calls it."""

    def __init__(self, slot: SharedSlot) -> None:
        self._slot = slot

    def take(self, flag: Flag) -> None:
        """Wait until a flag is raised, and lower it.

        Raises:
            TransportError: The peer has not raised it within the group's timeout.
        """
        word, began = self._slot.flag(flag), time.monotonic()
        while word.item() == 0:
            if time.monotonic() - began > self._slot.timeout_s:
                raise TransportError(
                    f"rank {flag.peer} of the group has not answered for"
                    f" {self._slot.timeout_s:.0f} s: it may have failed or run another program"
                )
            time.sleep(_PAUSE_S)
        word.zero_()

    def put(self, flag: Flag) -> None:
        """Raise a flag of another rank."""
        self._slot.flag(flag).fill_(1)

    def compute(self, function: Callable[[], None]) -> None:
        """Run a function."""
        function()

    def copy(self, target: Part | torch.Tensor, source: Part | torch.Tensor) -> None:
        """Copy a payload."""
        self._slot.copy(target, source)
