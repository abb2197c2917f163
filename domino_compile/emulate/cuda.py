"""CUDA transport: one process acts as one rank of a group on one GPU.

Each collective runs on its group's stream, after the work queued so far on the compute stream. Its
kernel occupies ``ctas`` thread blocks and moves the payload through local memory, spread evenly
over the table's time. Each block ends when that time has passed since the block's start, by the
GPU's global timer. ``wait`` makes the current stream wait for the kernel and returns at once.
Collectives of one group share one stream and so one wire. This works eagerly, under
``torch.compile`` and in CUDA graphs, where the trace records the capture and not the replays.

With ``exclusive`` a block takes all shared memory of its multiprocessor, so no matrix
multiplication shares the multiprocessor. An NCCL channel has the same effect, because it needs most
registers (NVIDIA/nccl#689). From compute capability 9.0 on, blocks come in clusters of ``CLUSTER``,
as NCCL's do (``cgaClusterSize``, 4 by default, in NCCL's ``init.cc`` and ``enqueue.cc``): they
occupy adjacent multiprocessors, which strands fewer of a product's clusters. Contention on the wire
with other groups, the other ranks' traffic into local memory, and late ranks are not emulated.

``symmetric.py`` explains the resulting numbers. Collectives on CPU tensors (objects, seeds) get
their numbers at once and take no time. A barrier waits for the device. Point-to-point operations
do nothing on the CPU and are refused on the device, as is ``all_gather_into_tensor_out``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from domino_compile._compat import groups as private
from domino_compile.emulate import settings
from domino_compile.emulate.group import Call, Tensors
from domino_compile.emulate.settings import EmulateError
from domino_compile.emulate.symmetric import Move, moves
from domino_compile.emulate.trace import Record

_THREADS, _WARP = 512, 32
#: Blocks per cluster, used if the number of blocks is a multiple of it.
CLUSTER = 4
# Integers reach the kernel as 32-bit int.
_MOST = 2**31 - 1
#: A payload is large if each thread moves at least this many units of it: from 32 MiB on with 16
#: blocks.
_LARGE = 256
_SOURCE = (
    f"#define LARGE {_LARGE}\n"
    + r"""
__device__ __forceinline__ unsigned long long now() {
  unsigned long long t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  return t;
}

__device__ __forceinline__ void sleep_until(unsigned long long deadline) {
  while (now() < deadline) __nanosleep(64);
}

// dst[i] = src[i % period] for i < n, evenly over wire_ns; must == 0: stop when time is over.
// Each thread moves AT_ONCE elements at a time: their loads are in flight together.
template <int AT_ONCE, typename T>
__device__ void move_paced(const T* src, T* dst, int period, int n, unsigned long long t0,
                           int wire_ns, int must) {
  const long long stride = (long long)gridDim.x * blockDim.x;
  const long long first = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  for (long long base = first; base < n; base += AT_ONCE * stride) {
    T held[AT_ONCE];
#pragma unroll
    for (int k = 0; k < AT_ONCE; ++k) {
      const long long i = base + k * stride;
      if (i < n) held[k] = src[period == n ? i : (unsigned)i % (unsigned)period];
    }
#pragma unroll
    for (int k = 0; k < AT_ONCE; ++k) {
      const long long i = base + k * stride;
      if (i < n) dst[i] = held[k];
    }
    const long long done = base + AT_ONCE * stride < n ? base + AT_ONCE * stride : n;
    sleep_until(t0 + (unsigned long long)((double)wire_ns * done / n));
    if (!must && now() >= t0 + wire_ns) return;
  }
}

// 4 at a time move 0.29 TB/s with 16 blocks, less than a fast link; a large payload needs more.
template <typename T>
__device__ void move_all(const T* src, T* dst, int period, int n, unsigned long long t0,
                         int wire_ns, int must) {
  const long long threads = (long long)gridDim.x * blockDim.x;
  if (n >= LARGE * threads)
    move_paced<16>(src, dst, period, n, t0, wire_ns, must);
  else
    move_paced<4>(src, dst, period, n, t0, wire_ns, must);
}

__device__ __forceinline__ void occupy(
    const char* src, char* dst, int unit, int period, int n, int wire_ns, int must) {
  extern __shared__ unsigned long long begin[];
  if (threadIdx.x == 0) begin[0] = now();
  __syncthreads();
  const unsigned long long t0 = begin[0];
  if (unit == 16)
    move_all((const uint4*)src, (uint4*)dst, period, n, t0, wire_ns, must);
  else if (unit == 4)
    move_all((const unsigned int*)src, (unsigned int*)dst, period, n, t0, wire_ns, must);
  else
    move_all((const unsigned char*)src, (unsigned char*)dst, period, n, t0, wire_ns, must);
  sleep_until(t0 + wire_ns);
}

extern "C" __global__ void __launch_bounds__(512) domino_emulated_wire(
    const char* src, char* dst, int unit, int period, int n, int wire_ns, int must) {
  occupy(src, dst, unit, period, n, wire_ns, must);
}
"""
)
_CLUSTERED = r"""
extern "C" __global__ void __cluster_dims__(4, 1, 1) __launch_bounds__(512)
    domino_emulated_wire_clusters(
        const char* src, char* dst, int unit, int period, int n, int wire_ns, int must) {
  occupy(src, dst, unit, period, n, wire_ns, must);
}
"""


class WireKernel:
    """The paced kernel, compiled and loaded for one device."""

    def __init__(self, device: torch.device) -> None:
        with torch.cuda.device(device):
            self._kernel: Callable[..., None] = private.compile_cuda_kernel(
                _SOURCE, "domino_emulated_wire"
            )
            self._clustered: Callable[..., None] | None = None
            if torch.cuda.get_device_capability(device) >= (9, 0) and not torch.version.hip:
                self._clustered = private.compile_cuda_kernel(
                    _SOURCE + _CLUSTERED, "domino_emulated_wire_clusters"
                )
                private.allow_most_shared_memory(self._clustered)
            self._whole_sm = private.allow_most_shared_memory(self._kernel)
            self._nothing = torch.empty(16, dtype=torch.uint8, device=device)
            # A graph capture must not load a kernel, so each is launched once before any capture.
            stream = torch.cuda.current_stream()
            for exclusive in (False, True):
                for ctas in (1, CLUSTER):
                    self._launch(
                        *(self._nothing, self._nothing, (1, 1, 0), 0, False),
                        *(ctas, exclusive, stream),
                    )
            stream.synchronize()

    def run(
        self, move: Move | None, wire_us: float, ctas: int, exclusive: bool, stream: Any
    ) -> None:
        """Occupy ``ctas`` blocks for ``wire_us`` on ``stream`` and move ``move`` meanwhile.

        If the kernel cannot address a move's tensors, tensor operations move them beforehand. So
        they do without blocks (0), where one sleeping warp keeps the time.
        """
        wire_ns = min(round(wire_us * 1e3), _MOST)
        shape = None if move is None or ctas == 0 else _units(move)
        if move is None or shape is None:
            if move is not None:
                move.apply()
            exclusive = exclusive and ctas > 0
            nothing = self._nothing
            self._launch(nothing, nothing, (1, 1, 0), wire_ns, False, ctas, exclusive, stream)
            return
        must = not move.in_place
        source, target = move.source.detach(), move.target.detach()
        self._launch(source, target, shape, wire_ns, must, ctas, exclusive, stream)

    def _launch(
        self,
        source: torch.Tensor,
        target: torch.Tensor,
        shape: tuple[int, int, int],
        wire_ns: int,
        must: bool,
        ctas: int,
        exclusive: bool,
        stream: Any,
    ) -> None:
        together = self._clustered if ctas and ctas % CLUSTER == 0 else None
        (together or self._kernel)(
            grid=(max(ctas, 1), 1, 1),
            block=(_THREADS if ctas else _WARP, 1, 1),
            args=[source, target, *shape, wire_ns, int(must)],
            shared_mem=self._whole_sm if exclusive else 16,
            stream=stream,
        )


def _units(move: Move) -> tuple[int, int, int] | None:
    """Return the unit in bytes, and source and target in units; ``None`` if impossible."""
    source, target = move.source, move.target
    if not (source.is_contiguous() and target.is_contiguous()) or source.dtype != target.dtype:
        return None
    source_bytes = source.numel() * source.element_size()
    if source_bytes == 0 or not (source.is_cuda and target.is_cuda):
        return None
    facts = (source.data_ptr(), target.data_ptr(), source_bytes, move.nbytes)
    unit = next(unit for unit in (16, 4, 1) if all(fact % unit == 0 for fact in facts))
    if move.nbytes // unit > _MOST:
        return None
    return unit, source_bytes // unit, move.nbytes // unit


@functools.cache
def kernel_of(device: torch.device) -> WireKernel:
    """Return the kernel of a device, compiled once."""
    return WireKernel(device)


class StreamWork(dist.Work):
    """Work that completes when an event is reached; waiting blocks streams, not threads."""

    def __init__(self, event: torch.cuda.Event | None, kept: Tensors, outputs: Tensors) -> None:
        super().__init__()
        self._event, self._kept, self._outputs = event, kept, outputs

    def wait(self, timeout: Any = None) -> bool:
        """Make the current stream wait. Until then the allocator must not reuse the tensors."""
        if self._event is not None:
            torch.cuda.current_stream(self._device()).wait_event(self._event)
        self._kept = []
        return True

    def _device(self) -> torch.device | None:
        return self._outputs[0].device if self._outputs else None

    def is_completed(self) -> bool:
        """Return whether the device has passed the event."""
        return self._event is None or bool(self._event.query())

    def is_success(self) -> bool:
        """Return the same as ``is_completed``."""
        return self.is_completed()

    def synchronize(self) -> None:
        """Do the same as ``wait``."""
        self.wait()

    def result(self) -> Tensors:
        """Return the tensors that the collective wrote."""
        return self._outputs

    def get_future(self) -> torch.futures.Future[Tensors]:
        """Return a completed future; its values are ordered on the caller's stream."""
        self.wait()
        future: torch.futures.Future[Tensors] = torch.futures.Future()
        future.set_result(self._outputs)
        return future


class CudaTransport:
    """A transport that runs one group's calls on a stream of the current GPU."""

    def __init__(self, rank: int, size: int) -> None:
        if not torch.cuda.is_available():
            raise EmulateError(
                "device='cuda' needs a CUDA GPU; device='cpu' emulates a link between gloo ranks"
            )
        self.fallback = private.silent_backend(rank, size)
        self._rank, self._size = rank, size
        self._device = torch.device("cuda", torch.cuda.current_device())
        self._kernel = kernel_of(self._device)
        self._stream = torch.cuda.Stream(self._device, priority=settings.current().stream_priority)

    def start(self, call: Call, record: Record) -> dist.Work:
        """Launch ``call`` on the group's stream, after the current stream's work so far."""
        record.exposed_ms = record.late_ms = None
        steps = moves(call, self._rank, self._size)
        tensors = [*call.outputs, *call.inputs]
        on_device = all(tensor.is_cuda for tensor in tensors)
        if call.kind == "barrier":
            self._drain()
        if not on_device or call.kind == "barrier" or record.wire_ms == 0:
            return self._at_once(call, steps, record)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            self._occupy(steps, record)
            if call.after is not None:
                call.after()
            event = torch.cuda.Event()
            event.record(self._stream)
        kept = [*tensors, *(step.source for step in steps)]
        return StreamWork(event, kept, call.outputs)

    def _drain(self) -> None:
        """Do what a barrier of one rank does: wait for the device, unless capturing a graph."""
        if not torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize(self._device)

    @staticmethod
    def _at_once(call: Call, steps: list[Move], record: Record) -> dist.Work:
        """Compute the numbers only, without wire time, on the current stream or the CPU."""
        record.wire_ms, record.end_s = 0.0, record.start_s
        for step in steps:
            step.apply()
        if call.after is not None:
            call.after()
        return StreamWork(None, [], call.outputs)

    def _occupy(self, steps: list[Move], record: Record) -> None:
        """Launch one kernel per move; the wire time is divided among them by bytes."""
        now = settings.current()
        ctas = now.ctas if now.ctas is not None else record.ctas
        ctas = 16 if ctas is None else ctas
        total = sum(step.nbytes for step in steps)
        wire_us = record.wire_ms * 1e3
        if total == 0:
            self._kernel.run(None, wire_us, ctas, now.exclusive, self._stream)
        for step in steps if total else []:
            part_us = wire_us * step.nbytes / total
            move = _part(step, now.local_share if ctas else 0.0)
            self._kernel.run(move, part_us, ctas, now.exclusive, self._stream)


def _part(step: Move, share: float) -> Move | None:
    """Return the part of an in-place move to make; a move that carries numbers stays whole."""
    if not step.in_place or share == 1:
        return step
    if not step.target.is_contiguous() or share == 0:
        return None
    part = step.target.view(-1)[: int(step.target.numel() * share)]
    return Move(part, part)
