"""Accounts for the device's time with the kernels of a few steps, from torch's profiler."""

from __future__ import annotations

import json
import math
import re
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from domino_compile.cost.intervals import union_us

#: The prefix of a collective's group if the profiler only knows the stream that it ran on.
STREAM = "stream "
#: Kinds of kernels with patterns of their names; the first match counts.
KINDS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        ("wire", r"domino_emulated_wire|nccl|rccl"),
        ("copies", r"^mem(cpy|set)|^triton_\w*_fused_(clone|_to_copy|copy|cat)_\d|copy_"),
        ("attention", r"flash|fmha|cudnn.*(attn|sdpa)|attention"),
        ("gemm", r"gemm|nvjet|cutlass|cublas|^Cijk|splitk"),
        ("random", r"^triton_\w*_fused_(inductor_)?(random|seeds|lookup_seed)[a-z_]*_\d|philox"),
        ("pointwise", r"^triton_|elementwise|reduce_kernel|layer_norm"),
    )
)


@dataclass(frozen=True)
class Kernel:
    """One kernel, copy or fill on the device; times in microseconds.

    Attributes:
        group: For a collective, the name of its process group, or its stream if torch does not say.
        blocks: For a collective, the thread blocks that it occupies; 0 if the trace does not say.
        collective: For a collective, torch's name for it; empty if unknown.
    """

    name: str
    begin: float
    end: float
    group: str = ""
    collective: str = ""
    blocks: int = 0

    @property
    def kind(self) -> str:
        """Return the kind of kernel, derived from its name."""
        return next((kind for kind, pattern in KINDS if pattern.search(self.name)), "other")


@dataclass(frozen=True)
class Account:
    """Device time of one step, in milliseconds.

    Attributes:
        wire_ms: Time with a collective in flight (overlapping collectives count once).
        exposed_ms: The share of ``wire_ms`` during which nothing else ran.
        compute_ms: Time during which something other than a collective ran.
        parts_ms: The sum of kernel times by kind, without collectives.
        kernels: The number of kernels, without collectives.
        blocks: The most thread blocks that a collective occupied; 0 if the trace does not say.
    """

    wire_ms: float
    exposed_ms: float
    compute_ms: float
    parts_ms: dict[str, float] = field(default_factory=dict)
    kernels: int = 0
    blocks: int = 0

    @staticmethod
    def of(kernels: Sequence[Kernel]) -> Account:
        """Return the account of one step's kernels."""
        wire = [(k.begin, k.end) for k in kernels if k.kind == "wire"]
        work = [(k.begin, k.end) for k in kernels if k.kind != "wire"]
        parts: dict[str, float] = {}
        for kernel in kernels:
            if kernel.kind != "wire":
                parts[kernel.kind] = parts.get(kernel.kind, 0.0) + (kernel.end - kernel.begin) / 1e3
        exposed = union_us(wire + work) - union_us(work)
        return Account(
            union_us(wire) / 1e3,
            exposed / 1e3,
            union_us(work) / 1e3,
            parts,
            len(work),
            max((k.blocks for k in kernels), default=0),
        )

    @staticmethod
    def median(accounts: Sequence[Account]) -> Account:
        """Return the median of each number over several steps."""
        kinds = sorted({kind for account in accounts for kind in account.parts_ms})
        middle = statistics.median
        return Account(
            middle(a.wire_ms for a in accounts),
            middle(a.exposed_ms for a in accounts),
            middle(a.compute_ms for a in accounts),
            {kind: middle(a.parts_ms.get(kind, 0.0) for a in accounts) for kind in kinds},
            int(middle(a.kernels for a in accounts)),
            max(a.blocks for a in accounts),
        )


def record(
    step: Callable[[], object], keep: Path | None = None, lead: bool = False
) -> list[Kernel]:
    """Return the kernels of one step on the current CUDA device, ordered by start time.

    Args:
        step: The step to run, warmed up by the caller.
        keep: The file to keep the Chrome trace in, if any.
        lead: Whether to run another step first, which the trace then contains too. Ranks take
            different times to start the profiler, so in the first step after that collectives wait
            for the slowest rank.
    """
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(2 if lead else 1):
            step()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = keep or Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        kernels = kernels_of(path)
    return kernels[len(kernels) // 2 :] if lead else kernels


def kernels_of(path: Path) -> list[Kernel]:
    """Return the kernels, copies and fills in a Chrome trace of torch's profiler."""
    return kernels_in(json.loads(path.read_text(encoding="utf-8"))["traceEvents"])


def kernels_in(events: Sequence[dict[str, Any]]) -> list[Kernel]:
    """Return the kernels, copies and fills among the events of a trace."""
    kernels = [
        _kernel(event)
        for event in events
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    ]
    return sorted(kernels, key=lambda kernel: kernel.begin)


def _kernel(event: dict[str, Any]) -> Kernel:
    plain = Kernel(event["name"], event["ts"], event["ts"] + event["dur"])
    if plain.kind != "wire":
        return plain
    said = event.get("args", {})
    group = said.get("Process Group Name") or f"{STREAM}{said.get('stream', '?')}"
    return replace(
        plain,
        group=str(group),
        collective=str(said.get("Collective name", "")),
        blocks=math.prod(said.get("grid", (0,))),
    )
