"""The numbers of collectives when one process acts as one rank and no other ranks exist.

The other ranks of a tensor-parallel group run the same program on the same shapes, so they are not
needed for one rank's *time*. Their numbers are missing, and this rank's numbers replace them:

==========================  ===================================================================
all_reduce, reduce          the payload is unchanged, for any reduction
broadcast                   the payload is unchanged, for any root
all_gather, gather          every rank's part is this rank's shard
reduce_scatter              this rank's chunk of its input
all_to_all                  the output is the input; both must have equally many numbers
scatter                     this rank's part if it is the root, otherwise the output is unchanged
==========================  ===================================================================

Losses and gradients of such a run are finite and repeatable but not those of the real group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from domino_compile._compat import groups as private
from domino_compile.emulate.group import Call
from domino_compile.emulate.settings import EmulateError
from domino_compile.emulate.trace import Record


@dataclass(frozen=True)
class Move:
    """Fills ``target`` with repetitions of ``source``; the same tensor stands for traffic only."""

    source: torch.Tensor
    target: torch.Tensor

    @property
    def in_place(self) -> bool:
        """Whether source and target are the same tensor."""
        return self.source is self.target

    @property
    def nbytes(self) -> int:
        """The number of bytes written."""
        return self.target.numel() * self.target.element_size()

    def apply(self) -> None:
        """Move the numbers by ordinary tensor operations."""
        if not self.in_place and self.source.numel() > 0:
            parts = self.source.detach().reshape(1, -1)
            repeats = self.target.numel() // self.source.numel()
            self.target.detach().copy_(parts.expand(repeats, -1).reshape(self.target.shape))


def moves(call: Call, rank: int, size: int) -> list[Move]:
    """Return the moves that stand for ``call`` on rank ``rank`` of ``size``.

    Raises:
        EmulateError: The call is an all_to_all that receives more or less than it sends.
    """
    if call.kind in ("all_reduce", "broadcast", "reduce"):
        return [Move(tensor, tensor) for tensor in call.outputs]
    if call.kind == "all_gather":
        return [Move(shard, out) for shard, out in zip(call.inputs, call.outputs, strict=True)]
    if call.kind == "reduce_scatter":
        pairs = zip(call.inputs, call.outputs, strict=True)
        return [Move(given.reshape(size, -1)[rank], out) for given, out in pairs]
    if call.kind == "all_to_all":
        given, out = call.inputs[0], call.outputs[0]
        if given.numel() != out.numel():
            raise EmulateError(
                "an all_to_all that receives more or less than it sends needs real ranks: "
                "use device='cpu'"
            )
        return [Move(given, out)]
    if call.kind == "gather":
        return [Move(call.inputs[0], out) for out in call.outputs]
    if call.kind == "scatter" and call.inputs:
        return [Move(call.inputs[rank], call.outputs[0])]
    return []


class Done(dist.Work):
    """A collective that was complete when it was launched."""

    def __init__(self, outputs: list[torch.Tensor]) -> None:
        super().__init__()
        self._outputs = outputs

    def wait(self, timeout: Any = None) -> bool:
        """Return at once."""
        return True

    def is_completed(self) -> bool:
        """Return True."""
        return True

    def result(self) -> list[torch.Tensor]:
        """Return the tensors that were written."""
        return self._outputs


class LoneTransport:
    """Moves the numbers above on the CPU, where one process acts as one rank, in no wire time."""

    def __init__(self, rank: int, size: int) -> None:
        self.fallback = private.silent_backend(rank, size)
        self._rank, self._size = rank, size

    def start(self, call: Call, record: Record) -> dist.Work:
        """Move the numbers of ``call``."""
        record.wire_ms, record.end_s, record.exposed_ms = 0.0, record.start_s, 0.0
        for step in moves(call, self._rank, self._size):
            step.apply()
        if call.after is not None:
            call.after()
        return Done(call.outputs)
