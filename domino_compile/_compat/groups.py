"""All private torch interfaces that the emulated link uses. Tested with torch 2.11 to 2.14."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch._C import _distributed_c10d as c10d
from torch.distributed import _functional_collectives

#: The functional collectives as users call them.
funcol: Any = _functional_collectives

AllgatherOptions = c10d.AllgatherOptions
AllreduceOptions = c10d.AllreduceOptions
AllToAllOptions = c10d.AllToAllOptions
BarrierOptions = c10d.BarrierOptions
BroadcastOptions = c10d.BroadcastOptions
GatherOptions = c10d.GatherOptions
ReduceOptions = c10d.ReduceOptions
ReduceScatterOptions = c10d.ReduceScatterOptions
ScatterOptions = c10d.ScatterOptions


if TYPE_CHECKING:

    class PythonGroup:
        """The interface of a process group written in Python, which torch's stubs lack."""

        group_name: str
        group_desc: str

        def __init__(self, rank: int, size: int) -> None: ...
        def rank(self) -> int: ...
        def size(self) -> int: ...

else:
    PythonGroup = dist.ProcessGroup


def gloo_backend(store: dist.Store, rank: int, size: int, timeout: timedelta) -> Any:
    """Return a real gloo backend."""
    return c10d.ProcessGroupGloo(store, rank, size, timeout)


def silent_backend(rank: int, size: int) -> Any:
    """Return a backend that does nothing except give a group its name."""
    return c10d.FakeProcessGroup._create_internal(rank, size)


def adopt(group: Any, backend: Any) -> None:
    """Let ``backend`` serve the operations on CPU tensors that ``group`` does not override.

    It also gives the group its ``group_name`` and ``group_desc``.
    """
    kind = dist.ProcessGroup.BackendType.CUSTOM
    group._register_backend(torch.device("cpu"), kind, backend)
    group._set_default_backend(kind)


def gather_into(backend: Any, output: torch.Tensor, shard: torch.Tensor) -> dist.Work:
    """Run an all-gather of ``shard`` into the flat ``output`` (ranks x shard) on a real backend."""
    work: dist.Work = backend._allgather_base(output, shard, AllgatherOptions())
    return work


def compile_cuda_kernel(source: str, name: str) -> Callable[..., None]:
    """Compile one CUDA C++ kernel (NVRTC) for the current device.

    The result is called as ``kernel(grid=, block=, args=, shared_mem=, stream=)``. Whole numbers
    are passed as 32-bit ``int``. The source must not need headers: torch requires a folder of CUDA
    headers, which a machine without the toolkit lacks, so it gets one that need not exist.
    """
    from torch.utils import cpp_extension

    known, compile_kernel = cpp_extension.CUDA_HOME, torch.cuda._compile_kernel
    cpp_extension.CUDA_HOME = known or "/usr/local/cuda"
    try:
        kernel: Callable[..., None] = compile_kernel(source, name)
    finally:
        cpp_extension.CUDA_HOME = known
    return kernel


def allow_most_shared_memory(kernel: Any) -> int:
    """Let ``kernel`` use all shared memory of a multiprocessor, and return its bytes.

    If this torch or device does not allow it, return 16. Blocks may then share a multiprocessor.
    """
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    most = getattr(properties, "shared_memory_per_block_optin", 0)
    configure = getattr(kernel, "set_shared_memory_config", None)
    if most <= 48 * 1024 or configure is None:
        return 16
    configure(most)
    return int(most)


def enable_symmetric_memory(group: Any, nbytes: int = 0) -> None:
    """Let Inductor move parts of products between a group's ranks (asynchronous TP).

    Args:
        group: The group. All its ranks have to call this.
        nbytes: The most bytes that a collective gathers or scatters; 0 reserves no memory for it.
            Otherwise the first step that is compiled reserves it. If Inductor records CUDA graphs,
            that step allocates in their pool, and what it keeps there lets all later steps of the
            process fail.
    """
    from torch.distributed import _symmetric_memory

    with warnings.catch_warnings():
        # Inductor still asks whether this was called, although torch 2.11 calls it deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        _symmetric_memory.enable_symm_mem_for_group(group.group_name)
    if nbytes and torch.cuda.is_available():
        # Reduce-scatter has two chunks of 1/ranks of it in flight, and all-gather one.
        _symmetric_memory.get_symm_mem_workspace(group.group_name, nbytes)
