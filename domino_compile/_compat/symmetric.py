"""Private parts of torch and the CUDA driver for memory that all ranks of a group can access."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

_WAIT, _WRITE = 1, 2  # CU_STREAM_MEM_OP_WAIT_VALUE_32 and _WRITE_VALUE_32 in cuda.h
_EQUAL = 1  # CU_STREAM_WAIT_VALUE_EQ


class _ValueOperation(ctypes.Structure):
    """``CUstreamBatchMemOpParams``: a union of 48 bytes; waits and writes have the same layout."""

    _fields_ = (
        ("operation", ctypes.c_uint),
        ("address", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("flags", ctypes.c_uint),
        ("alias", ctypes.c_uint64),
        ("padding", ctypes.c_uint64),
    )


@functools.cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def has_stream_memory_operations() -> bool:
    """Return whether the driver has memory operations of streams (CUDA 11.7 and newer)."""
    try:
        return hasattr(_driver(), "cuStreamBatchMemOp_v2")
    except OSError:
        return False


def _run(stream: torch.cuda.Stream, operations: list[_ValueOperation]) -> None:
    array = (_ValueOperation * len(operations))(*operations)
    code = _driver().cuStreamBatchMemOp_v2(
        ctypes.c_void_p(stream.cuda_stream), ctypes.c_uint(len(operations)), array, ctypes.c_uint(0)
    )
    if code != 0:
        raise RuntimeError(f"cuStreamBatchMemOp failed with CUDA driver error {code}")


def take_values(stream: torch.cuda.Stream, addresses: list[int]) -> None:
    """Let a stream wait until the 32-bit words at addresses of this GPU are 1, and clear them."""
    waits = [_ValueOperation(_WAIT, address, 1, _EQUAL) for address in addresses]
    writes = [_ValueOperation(_WRITE, address, 0, 0) for address in addresses]
    _run(stream, [*waits, *writes])


def put_values(stream: torch.cuda.Stream, addresses: list[int]) -> None:
    """Let a stream set 32-bit words to 1, after its work so far is visible to all GPUs."""
    _run(stream, [_ValueOperation(_WRITE, address, 1, 0) for address in addresses])


class SymmetricBuffer:
    """A buffer of equal size on every rank of a group, and this process's access to all of them.

    Making one is a collective: every rank of the group has to do it.

    Attributes:
        rank: This process's rank in the group.
        parts: The buffers as tensors of bytes, by rank.
        addresses: Their addresses, as this GPU sees them.
    """

    def __init__(self, nbytes: int, device: torch.device, group_name: str) -> None:
        from torch._C._distributed_c10d import _SymmetricMemory
        from torch.distributed import distributed_c10d

        os.environ.setdefault("TORCH_SYMM_MEM_DISABLE_MULTICAST", "1")  # it is not used
        private: Any = _SymmetricMemory
        size = int(distributed_c10d._resolve_process_group(group_name).size())  # type: ignore[arg-type]

        def make() -> tuple[torch.Tensor, Any]:
            with torch.cuda.device(device):
                local = private.empty_strided_p2p((nbytes,), (1,), torch.uint8, device, group_name)
                return local, private.rendezvous(local, group_name)

        # The handle keeps two small arrays on the device for good. CUDA graph trees count what
        # their thread allocates during the first run, and allow nothing that outlives it.
        with ThreadPoolExecutor(1) as thread:
            self._local, self._handle = thread.submit(make).result()
        self.rank = int(self._handle.rank)
        self.addresses = [int(address) for address in self._handle.buffer_ptrs]
        self.parts = [
            self._handle.get_buffer(rank, (nbytes,), torch.uint8, 0) for rank in range(size)
        ]


def reach_each_other(devices: list[int]) -> bool:
    """Return whether a GPU can access the memory of all others of this process's host."""
    return all(torch.cuda.can_device_access_peer(a, b) for a in devices for b in devices if a != b)


def keep_calls(operations: Collection[Any]) -> None:
    """Keep dead-code removal from removing calls of operations whose results nothing uses."""
    from torch.fx.node import has_side_effect

    for operation in operations:
        has_side_effect(operation)


def register_collective_lowerings(
    starts: Collection[Any], waits: Mapping[Any, Any], not_reused: Collection[Any]
) -> None:
    """Let Inductor lower operations of ours as it lowers functional collectives.

    Args:
        starts: Operations that return a tensor which is written to later.
        waits: Operations that return their first argument, each with the operation to emit, which
            returns nothing; readers of the argument stay on their side.
        not_reused: Starts whose result lies in memory that is not Inductor's to use again.
    """
    from torch._inductor import ir, lowering
    from torch._inductor.virtualized import V

    kernel: Any = ir._CollectiveKernel

    def start(operation: Any) -> None:
        @lowering.register_lowering(operation, type_promotion_kind=None)
        def lowered(value: Any, *rest: Any) -> Any:
            started = kernel.create_out_of_place(operation, value, *rest)
            if operation in not_reused:
                V.graph.never_reuse_buffers.add(started.get_name())
            return ir.TensorBox.create(started)

    def wait(operation: Any) -> None:
        @lowering.register_lowering(operation, type_promotion_kind=None)
        def lowered(value: Any, *rest: Any) -> Any:
            kernel.create_inplace(waits[operation], value, *rest)
            return value

    for operation in starts:
        if operation not in lowering.lowerings:
            start(operation)
    for operation in waits:
        if operation not in lowering.lowerings:
            wait(operation)
