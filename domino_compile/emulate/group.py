"""The process group: it names each collective, counts its bytes and puts it on the wire.

``torch.distributed`` and the functional collectives (``torch.ops._c10d_functional``, which
compiled code calls) both end in the methods below. A transport then moves the numbers and returns
a ``Work`` that completes when the link table says so.

Some methods have two names because torch renamed them (2.13: ``_single``). ``send``, ``recv`` and
``all_gather_into_tensor_out`` are not emulated: gloo serves them at its own speed, and they are not
recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist

from domino_compile._compat import groups as private
from domino_compile.emulate import settings, trace

Tensors = list[torch.Tensor]


@dataclass
class Call:
    """One collective, normalised: flat tensors in, flat tensors out.

    Attributes:
        kind: The collective, one of ``domino_compile.links.COLLECTIVES``.
        outputs: The tensors that it writes; the same as ``inputs`` if it works in place.
        inputs: The tensors that it reads.
        options: Torch's options object, which holds the reduction or the root.
        splits: The sizes along dim 0 that an all_to_all receives and sends: ``(outputs, inputs)``.
        after: A function that is called once when the results are ready, before the program sees
            them.
    """

    kind: str
    outputs: Tensors
    inputs: Tensors
    options: Any = None
    splits: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))
    after: Callable[[], None] | None = None


class Transport(Protocol):
    """An object that moves the numbers of a ``Call``."""

    fallback: Any

    def start(self, call: Call, record: trace.Record) -> dist.Work:
        """Launch ``call``; the returned work completes no earlier than ``record`` says."""
        ...


def _bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _copy_into(targets: Tensors, flat: torch.Tensor) -> None:
    """Distribute equal chunks of ``flat`` over ``targets``."""
    for target, chunk in zip(targets, flat.chunk(len(targets)), strict=True):
        target.detach().copy_(chunk.view(target.shape))


class EmulatedGroup(private.PythonGroup):
    """A process group whose collectives take the time of a link table."""

    def __init__(self, transport: Transport, rank: int, size: int) -> None:
        super().__init__(rank, size)
        private.adopt(self, transport.fallback)
        self._transport = transport
        self._wire = trace.Wire()
        self._coalesced: list[dist.Work] | None = None

    def getBackendName(self) -> str:
        """Return the name under which the backend is registered."""
        return "domino_emulated"

    def __repr__(self) -> str:
        return f"<emulated process group {self.group_name}, rank {self.rank()} of {self.size()}>"

    def _launch(self, call: Call, nbytes: int) -> dist.Work:
        table = settings.table_of(self)
        wire_us = 0.0 if table is None else table.time_us(call.kind, nbytes)
        launch, start, end = self._wire.occupy(wire_us)
        record = trace.Record(
            name=call.kind,
            nbytes=nbytes,
            group=self.group_name,
            link="free" if table is None else table.name,
            ranks=self.size(),
            wire_ms=wire_us / 1e3,
            launch_s=launch,
            start_s=start,
            end_s=end,
            ctas=None if table is None else table.ctas,
        )
        with torch.no_grad():
            work = self._transport.start(call, record)
        trace.add(record)
        if self._coalesced is not None:
            self._coalesced.append(work)
        return work

    # In place: all_reduce, broadcast, reduce.

    def allreduce(self, tensors: Tensors, opts: Any = None) -> dist.Work:
        """All-reduce each tensor in place, as one collective."""
        opts = opts or private.AllreduceOptions()
        return self._launch(Call("all_reduce", tensors, tensors, opts), _bytes(tensors))

    allreduce_coalesced = allreduce

    def broadcast(self, tensors: Tensors, opts: Any = None) -> dist.Work:
        """Broadcast from ``opts.rootRank``, in place."""
        opts = opts or private.BroadcastOptions()
        return self._launch(Call("broadcast", tensors, tensors, opts), _bytes(tensors))

    def reduce(self, tensors: Tensors, opts: Any = None) -> dist.Work:
        """Reduce to ``opts.rootRank``, in place."""
        opts = opts or private.ReduceOptions()
        return self._launch(Call("reduce", tensors, tensors, opts), _bytes(tensors))

    # all_gather

    def _allgather_base(
        self, output: torch.Tensor, input: torch.Tensor, opts: Any = None
    ) -> dist.Work:
        return self.allgather_into_tensor_coalesced([output], [input], opts)

    all_gather_single = _allgather_base

    def allgather_into_tensor_coalesced(
        self, outputs: Tensors, inputs: Tensors, opts: Any = None
    ) -> dist.Work:
        """All-gather each input into the matching output, which is ``ranks`` times as large."""
        return self._launch(Call("all_gather", outputs, inputs), _bytes(outputs))

    all_gather_single_coalesced = allgather_into_tensor_coalesced

    def allgather(
        self, output_lists: list[Tensors], inputs: Tensors, opts: Any = None
    ) -> dist.Work:
        """All-gather into one tensor per rank."""
        flats = [shard.new_empty(self.size() * shard.numel()) for shard in inputs]

        def scatter_out() -> None:
            for outputs, flat in zip(output_lists, flats, strict=True):
                _copy_into(outputs, flat)

        return self._launch(Call("all_gather", flats, inputs, after=scatter_out), _bytes(flats))

    def allgather_coalesced(
        self, output_lists: list[Tensors], input_list: Tensors, opts: Any = None
    ) -> dist.Work:
        """All-gather several inputs: input ``i`` of a rank goes to ``output_lists[rank][i]``."""
        by_input = [list(column) for column in zip(*output_lists, strict=True)]
        return self.allgather(by_input, input_list, opts)

    # reduce_scatter

    def _reduce_scatter_base(
        self, output: torch.Tensor, input: torch.Tensor, opts: Any = None
    ) -> dist.Work:
        return self.reduce_scatter_tensor_coalesced([output], [input], opts)

    reduce_scatter_single = _reduce_scatter_base

    def reduce_scatter_tensor_coalesced(
        self, outputs: Tensors, inputs: Tensors, opts: Any = None
    ) -> dist.Work:
        """Reduce each input and keep this rank's equal share of dim 0."""
        opts = opts or private.ReduceScatterOptions()
        return self._launch(Call("reduce_scatter", outputs, inputs, opts), _bytes(inputs))

    reduce_scatter_single_coalesced = reduce_scatter_tensor_coalesced

    def reduce_scatter(
        self, outputs: Tensors, input_lists: list[Tensors], opts: Any = None
    ) -> dist.Work:
        """Reduce-scatter from one tensor per rank."""
        flats = [torch.cat([part.reshape(-1) for part in parts]) for parts in input_lists]
        return self.reduce_scatter_tensor_coalesced(outputs, flats, opts)

    # all_to_all, gather, scatter, barrier

    def alltoall_base(
        self,
        output: torch.Tensor,
        input: torch.Tensor,
        output_splits: list[int],
        input_splits: list[int],
        opts: Any = None,
    ) -> dist.Work:
        """Exchange parts of dim 0; empty splits mean equal parts."""
        splits = (list(output_splits or ()), list(input_splits or ()))
        call = Call("all_to_all", [output], [input], splits=splits)
        return self._launch(call, _bytes([input]))

    all_to_all_single = alltoall_base

    def alltoall(self, outputs: Tensors, inputs: Tensors, opts: Any = None) -> dist.Work:
        """Exchange one tensor with each rank."""
        sent = torch.cat([part.reshape(-1) for part in inputs])
        splits = ([part.numel() for part in outputs], [part.numel() for part in inputs])
        got = sent.new_empty(sum(splits[0]))

        def split_out() -> None:
            for output, part in zip(outputs, got.split(splits[0]), strict=True):
                output.detach().copy_(part.view(output.shape))

        call = Call("all_to_all", [got], [sent], splits=splits, after=split_out)
        return self._launch(call, _bytes([sent]))

    def gather(self, output_lists: list[Tensors], inputs: Tensors, opts: Any = None) -> dist.Work:
        """Collect at ``opts.rootRank``; ``output_lists`` is empty on the other ranks."""
        opts = opts or private.GatherOptions()
        outputs = output_lists[0] if output_lists else []
        return self._launch(Call("gather", outputs, inputs, opts), _bytes(inputs) * self.size())

    def scatter(self, outputs: Tensors, input_lists: list[Tensors], opts: Any = None) -> dist.Work:
        """Hand out from ``opts.rootRank``; ``input_lists`` is empty on the other ranks."""
        opts = opts or private.ScatterOptions()
        inputs = input_lists[0] if input_lists else []
        return self._launch(Call("scatter", outputs, inputs, opts), _bytes(outputs) * self.size())

    def barrier(self, opts: Any = None) -> dist.Work:
        """Wait for all ranks; occupies the wire for the table's floor."""
        return self._launch(Call("barrier", [], [], opts or private.BarrierOptions()), 0)

    # torch's older way to coalesce: one wait covers everything launched in between.

    def _start_coalescing(self, device: torch.device) -> None:
        self._coalesced = []

    def _end_coalescing(self, device: torch.device) -> dist.Work:
        works, self._coalesced = self._coalesced or [], None
        return Together(works)


class Together(dist.Work):
    """Several works that are waited for as one."""

    def __init__(self, works: list[dist.Work]) -> None:
        super().__init__()
        self._works = works

    def wait(self, timeout: Any = None) -> bool:
        """Wait for each work."""
        return all(work.wait() for work in self._works)

    def is_completed(self) -> bool:
        """Return whether all works are complete."""
        return all(work.is_completed() for work in self._works)
