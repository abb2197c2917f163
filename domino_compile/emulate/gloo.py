"""CPU transport: gloo moves the numbers, and each completion is delayed to the table's time.

A wait returns when both gloo and the emulated wire are done. The wire's clock starts at this rank's
launch: if one rank launches late, the others wait for gloo, but not for a full wire time after the
late launch.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist

from domino_compile._compat import groups as private
from domino_compile.emulate.group import Call, Tensors
from domino_compile.emulate.trace import Record

Finish = Callable[[], object]

# time.sleep oversleeps by up to about this much, so the last part is spent polling.
_SPIN_S = 0.0002
# gloo lacks float8 and similar types: collectives that only move data see them as bytes.
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_MOVABLE = frozenset((*_FLOATS, torch.uint8, torch.int8, torch.int32, torch.int64))


def sleep_until(deadline_s: float) -> None:
    """Return at ``deadline_s`` of ``time.monotonic`` or just after, without burning the CPU."""
    remaining = deadline_s - time.monotonic()
    if remaining > _SPIN_S:
        time.sleep(remaining - _SPIN_S)
    while time.monotonic() < deadline_s:
        time.sleep(0)


class DelayedWork(dist.Work):
    """Work that completes when the real works are done and the emulated wire time is over."""

    def __init__(
        self, works: list[dist.Work], record: Record, finish: list[Finish], outputs: Tensors
    ) -> None:
        super().__init__()
        self._works, self._record, self._finish, self._outputs = works, record, finish, outputs
        self._lock = threading.Lock()
        self._done = False

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Block until completion.

        Args:
            timeout: The real transport's timeout; ``None`` or zero for the group's timeout.

        Raises:
            RuntimeError: The real transport failed or timed out.
        """
        begin = time.monotonic()
        with self._lock:
            if self._done:
                return True
            for work in self._works:
                if timeout:
                    work.wait(timeout)
                else:
                    work.wait()
            sleep_until(self._record.end_s)
            with torch.no_grad():
                for step in self._finish:
                    step()
            self._done, self._works, self._finish = True, [], []
            self._account(begin)
        return True

    def _account(self, begin_s: float) -> None:
        """Record a wait that began at ``begin_s`` and ends now."""
        record = self._record
        record.done_s = time.monotonic()
        exposed_s = max(0.0, min(record.end_s, record.done_s) - begin_s)
        record.exposed_ms = exposed_s * 1e3
        record.late_ms = (record.done_s - begin_s - exposed_s) * 1e3

    def is_completed(self) -> bool:
        """Return whether a wait would return at once."""
        if self._done:
            return True
        if time.monotonic() < self._record.end_s:
            return False
        return all(work.is_completed() for work in self._works) and self.wait()

    def is_success(self) -> bool:
        """Return whether the collective has completed; a failure raises in ``wait``."""
        return self.is_completed()

    def synchronize(self) -> None:
        """Do the same as ``wait``."""
        self.wait()

    def result(self) -> Tensors:
        """Return the tensors that the collective wrote."""
        return self._outputs

    def get_future(self) -> torch.futures.Future[Tensors]:
        """Return a future that a thread completes with ``result()``."""
        future: torch.futures.Future[Tensors] = torch.futures.Future()

        def complete() -> None:
            try:
                self.wait()
            except Exception as error:
                future.set_exception(error)  # type: ignore[arg-type]
            else:
                future.set_result(self.result())

        threading.Thread(target=complete, daemon=True).start()
        return future


def _flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.view(-1)
    return flat if tensor.dtype in _MOVABLE else flat.view(torch.uint8)


def _contiguous(tensors: Tensors) -> Tensors:
    return [tensor.detach().contiguous() for tensor in tensors]


class GlooTransport:
    """A transport that runs calls on a real gloo backend."""

    def __init__(self, store: dist.Store, rank: int, size: int, timeout: timedelta) -> None:
        self._gloo = private.gloo_backend(store, rank, size, timeout)
        self.fallback = self._gloo
        self._rank, self._size = rank, size

    def start(self, call: Call, record: Record) -> dist.Work:
        """Launch on gloo. Non-contiguous tensors are sent as contiguous copies."""
        outputs = _contiguous(call.outputs)
        inputs = outputs if call.inputs is call.outputs else _contiguous(call.inputs)
        moved = dataclasses.replace(call, outputs=outputs, inputs=inputs)
        finish: list[Finish] = []
        works = getattr(self, f"_{call.kind}")(moved, finish)
        for target, output in zip(call.outputs, outputs, strict=True):
            if not target.is_contiguous():
                finish.append(partial(target.detach().copy_, output))
        if call.after is not None:
            finish.append(call.after)
        return DelayedWork(works, record, finish, call.outputs)

    def _all_reduce(self, call: Call, finish: list[Finish]) -> list[dist.Work]:
        options = private.AllreduceOptions()
        options.reduceOp = call.options.reduceOp
        return [self._gloo.allreduce([tensor], options) for tensor in call.outputs]

    def _reduce_scatter(self, call: Call, finish: list[Finish]) -> list[dist.Work]:
        """Run an all-reduce on a copy and keep this rank's share: gloo has no reduce_scatter."""
        whole = [tensor.clone() for tensor in call.inputs]
        for output, summed in zip(call.outputs, whole, strict=True):
            share = summed.view(self._size, -1)[self._rank].view(output.shape)
            finish.append(partial(output.copy_, share))
        return self._all_reduce(dataclasses.replace(call, outputs=whole), finish)

    def _broadcast(self, call: Call, finish: list[Finish]) -> list[dist.Work]:
        return [self._gloo.broadcast([_flat_bytes(t)], call.options) for t in call.outputs]

    def _reduce(self, call: Call, finish: list[Finish]) -> list[dist.Work]:
        return [self._gloo.reduce([tensor], call.options) for tensor in call.outputs]

    def _all_gather(self, call: Call, finish: list[Finish]) -> list[dist.Work]:
        return [
            private.gather_into(self._gloo, _flat_bytes(output), _flat_bytes(shard))
            for output, shard in zip(call.outputs, call.inputs, strict=True)
        ]

    def _all_to_all(self, call: Call, finish: list[Finish]) -> list[dist.Work]:
        options = private.AllToAllOptions()
        output, given = call.outputs[0], call.inputs[0]
        return [self._gloo.alltoall_base(output, given, *call.splits, options)]

    def _gather(self, call: Call, finish: list[Finish]) -> list[dist.Work]:
        outputs = [call.outputs] if call.outputs else []
        return [self._gloo.gather(outputs, call.inputs, call.options)]

    def _scatter(self, call: Call, finish: list[Finish]) -> list[dist.Work]:
        inputs = [call.inputs] if call.inputs else []
        return [self._gloo.scatter(call.outputs, inputs, call.options)]

    def _barrier(self, call: Call, finish: list[Finish]) -> list[dist.Work]:
        return [self._gloo.barrier(call.options)]
