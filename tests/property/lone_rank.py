"""One process plays rank 0 of every group, with numbers that tell whether a collective was done.

Rank ``r`` holds what rank 0 holds, times ``2 ** -r``. All collectives are then linear and exact in
their scale: doing one twice, not at all, or on the wrong ranks' blocks changes the result.

==================  ======================================================================
all_reduce (sum)    ``x * (1 + 1/2 + 1/4 + ...)``
all_gather          ``cat([x, x/2, x/4, ...])``
reduce_scatter      this rank's chunk of its own input, summed as above
all_to_all          ``[c, c/2, c/4, ...]`` for this rank's own chunk ``c``
broadcast           the payload stays as it is
==================  ======================================================================
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

BACKEND = "lone_rank"
WORLD = 4


class Done(dist.Work):
    """A collective that is complete when it is launched."""

    def wait(self, timeout: Any = None) -> bool:
        return True

    def is_completed(self) -> bool:
        return True


def weights(size: int) -> list[float]:
    return [2.0**-rank for rank in range(size)]


class LoneRank(dist.ProcessGroup):
    """The collectives that functional collectives and ``dist.all_reduce`` end in."""

    def __init__(self, size: int) -> None:
        super().__init__(0, size)
        silent = torch._C._distributed_c10d.FakeProcessGroup._create_internal(0, size)
        kind = dist.ProcessGroup.BackendType.CUSTOM
        self._register_backend(torch.device("cpu"), kind, silent)
        self._set_default_backend(kind)

    def getBackendName(self) -> str:
        return BACKEND

    def allreduce(self, tensors: list[torch.Tensor], opts: Any = None) -> dist.Work:
        """Sum, average and maximum: no test needs another reduction."""
        operation = opts.reduceOp if opts is not None else dist.ReduceOp.SUM
        scale = sum(weights(self.size()))
        if operation == dist.ReduceOp.MAX:
            for tensor in tensors:
                tensor.copy_(torch.maximum(tensor, tensor * weights(self.size())[-1]))
            return Done()
        if not tensors[0].is_floating_point():  # whole numbers have no halves
            scale = self.size()
        if operation == dist.ReduceOp.AVG:
            scale /= self.size()
        with torch.no_grad():
            for tensor in tensors:
                tensor.mul_(scale)
        return Done()

    allreduce_coalesced = allreduce

    def broadcast(self, tensors: list[torch.Tensor], opts: Any = None) -> dist.Work:
        return Done()

    def allgather_into_tensor_coalesced(
        self, outputs: list[torch.Tensor], inputs: list[torch.Tensor], opts: Any = None
    ) -> dist.Work:
        """Before torch 2.13 functional collectives of single tensors end here as well."""
        with torch.no_grad():
            for output, input in zip(outputs, inputs, strict=True):
                parts = [input.reshape(-1) * weight for weight in weights(self.size())]
                output.copy_(torch.cat(parts).view(output.shape))
        return Done()

    def _allgather_base(
        self, output: torch.Tensor, input: torch.Tensor, opts: Any = None
    ) -> dist.Work:
        return self.allgather_into_tensor_coalesced([output], [input], opts)

    all_gather_single = _allgather_base

    def reduce_scatter_tensor_coalesced(
        self, outputs: list[torch.Tensor], inputs: list[torch.Tensor], opts: Any = None
    ) -> dist.Work:
        """Likewise."""
        with torch.no_grad():
            for output, input in zip(outputs, inputs, strict=True):
                chunk = input.reshape(self.size(), -1)[0]
                output.copy_(chunk.view(output.shape) * sum(weights(self.size())))
        return Done()

    def _reduce_scatter_base(
        self, output: torch.Tensor, input: torch.Tensor, opts: Any = None
    ) -> dist.Work:
        return self.reduce_scatter_tensor_coalesced([output], [input], opts)

    reduce_scatter_single = _reduce_scatter_base

    def alltoall_base(
        self,
        output: torch.Tensor,
        input: torch.Tensor,
        _output_sizes: list[int],
        _input_sizes: list[int],
        opts: Any = None,
    ) -> dist.Work:
        """Equal chunks."""
        with torch.no_grad():
            chunk = input.reshape(self.size(), -1)[0]
            parts = [chunk * weight for weight in weights(self.size())]
            output.copy_(torch.cat(parts).view(output.shape))
        return Done()

    def barrier(self, opts: Any = None) -> dist.Work:
        return Done()


def _create(options: Any, _backend_options: Any) -> LoneRank:
    return LoneRank(options.group_size)


def start() -> dict[str, dist.ProcessGroup]:
    """The groups: ``tp`` and ``dp`` of two ranks, ``world`` of four. Once in a process."""
    if not _groups:
        if BACKEND.upper() not in dist.Backend._plugins:
            dist.Backend.register_backend(BACKEND, _create, extended_api=True, devices=["cpu"])
        dist.init_process_group(BACKEND, rank=0, world_size=WORLD, store=dist.HashStore())
        _groups.update(world=dist.group.WORLD, tp=dist.new_group([0, 1]), dp=dist.new_group([0, 2]))
    return _groups


def stop() -> None:
    """Leave the process as it was, for other tests."""
    _groups.clear()
    dist.destroy_process_group()


_groups: dict[str, Any] = {}
