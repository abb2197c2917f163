"""Measures the rates of a device: matrix products, attention, memory copies and launches.

All ranks measure at once, as they compute at once in training. The slowest counts.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from domino_compile.cost.rates import with_few
from domino_compile.tools.calibrate.clock import Clock, Run
from domino_compile.tools.calibrate.collectives import median_us
from domino_compile.tools.calibrate.ranks import Ranks
from domino_compile.tools.calibrate.settings import MIB, Settings

aten = torch.ops.aten

#: Rows, columns and contracted extent of products: a large one, and those of a rank's MLP with
#: TP=8. Products on processors are small. Many processors emulate bfloat16 and would take seconds
#: for a larger product, at the same rate as for a small one.
MATMULS = {
    "cuda": ((8192, 8192, 8192), (4096, 4096, 4096), (8192, 2048, 4096), (8192, 4096, 2048)),
    "cpu": ((256, 256, 256), (512, 512, 512)),
}
#: Batch, heads, sequence and width of a head of causal attention.
ATTENTION = {
    "cuda": ((4, 32, 2048, 128), (8, 16, 1024, 128)),
    "cpu": ((1, 4, 256, 64), (1, 4, 512, 64)),
}
#: The type of float8 operands in forward.
FLOAT8 = torch.float8_e4m3fn
COPY_BYTES = {"cuda": 1024 * MIB, "cpu": 64 * MIB}
_LAUNCHES = 100


@dataclass(frozen=True)
class Probe:
    """One operation to time.

    Attributes:
        what: ``matmul``, ``attention_forward``, ``attention_backward``, ``copy`` or ``launch``.
        dtype: The type of its tensors.
        shape: An entry of ``MATMULS`` or ``ATTENTION``; otherwise empty.
        amount: The operations, the bytes read plus written, or the launches of one call.
        make: A function that allocates the tensors and returns the call.
    """

    what: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    amount: float
    make: Callable[[], Run]


def device_name(device: torch.device) -> str:
    """Return the GPU's name as torch reports it, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine() or "cpu"


def probes(device: torch.device) -> list[Probe]:
    """Return all operations to time on a device."""
    operations = []
    for dtype in (torch.bfloat16, torch.float32):
        operations += [matmul_probe(shape, dtype, device) for shape in MATMULS[device.type]]
    if has_float8(device):
        operations += [_scaled_probe(shape, device) for shape in MATMULS[device.type]]
    half = torch.bfloat16 if device.type == "cuda" else torch.float32
    for shape in ATTENTION[device.type]:
        operations += [_attention(shape, half, device, backward) for backward in (False, True)]
    return [*operations, copy_probe(device), _launch(device)]


def matmul_probe(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Probe:
    """Return a probe of a product of ``(m, k)`` and ``(k, n)``, for a shape ``(m, n, k)``."""
    m, n, k = shape

    def make() -> Run:
        # Random numbers: zeros draw less power, and a device then clocks higher than in training.
        left = torch.randn(m, k, device=device).to(dtype)
        right = torch.randn(k, n, device=device).to(dtype)
        out = torch.empty(m, n, device=device, dtype=dtype)
        return lambda: torch.mm(left, right, out=out)

    return Probe("matmul", dtype, shape, 2.0 * m * n * k, make)


def has_float8(device: torch.device) -> bool:
    """Return whether a device multiplies in float8: NVIDIA's from Ada and Hopper on."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 9)


def _scaled_probe(shape: tuple[int, int, int], device: torch.device) -> Probe:
    """Return a probe of a product in float8 with a scale for each row, as torchao's ``rowwise``."""
    m, n, k = shape

    def make() -> Run:
        left, right = (torch.randn(x, k, device=device).to(FLOAT8) for x in (m, n))
        rows, columns = torch.ones(m, 1, device=device), torch.ones(1, n, device=device)
        return lambda: aten._scaled_mm.default(
            left, right.t(), rows, columns, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    return Probe("matmul", FLOAT8, shape, 2.0 * m * n * k, make)


def _attention(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, backward: bool
) -> Probe:
    batch, heads, sequence, extent = shape
    forward = 4.0 * batch * heads * sequence * sequence * extent / 2  # half: causal mask
    if device.type != "cpu":
        forward *= with_few(sequence)  # the rate is that with very many keys

    def make() -> Run:
        query, key, value, grad = (torch.randn(shape, device=device).to(dtype) for _ in range(4))
        inputs = [x.requires_grad_(backward) for x in (query, key, value)]
        attend = functional.scaled_dot_product_attention
        if not backward:
            return lambda: attend(query, key, value, is_causal=True)
        out = attend(query, key, value, is_causal=True)
        return lambda: torch.autograd.grad(out, inputs, grad, retain_graph=True)

    what = "attention_backward" if backward else "attention_forward"
    return Probe(what, dtype, shape, forward * (2.5 if backward else 1.0), make)


def copy_probe(device: torch.device) -> Probe:
    """Return a probe of a large copy within the device."""
    nbytes = COPY_BYTES[device.type]

    def make() -> Run:
        source = torch.ones(nbytes, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    return Probe("copy", torch.uint8, (), 2.0 * nbytes, make)


def _launch(device: torch.device) -> Probe:
    """Return a probe of tiny kernels in a row, in a CUDA graph so that the host does not matter."""

    def make() -> Run:
        one = torch.zeros(1, device=device)
        if device.type == "cpu":
            return lambda: one.add_(1)
        one.add_(1)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads (NCCL's watchdog) may query events meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            for _ in range(_LAUNCHES):
                one.add_(1)
        return graph.replay

    return Probe("launch", torch.float32, (), 1.0 if device.type == "cpu" else _LAUNCHES, make)


def host_launch_us(device: torch.device, clock: Clock, rounds: int) -> float:
    """Return the host's microseconds to issue one operation, in the least disturbed round."""
    one = torch.zeros(1, device=device)
    best = float("inf")
    for _ in range(rounds + 1):
        clock.synchronize()
        began = time.perf_counter_ns()
        for _ in range(_LAUNCHES):
            one.add_(1)
        best = min(best, (time.perf_counter_ns() - began) / 1e3 / _LAUNCHES)
    clock.synchronize()
    return best


def measure(
    ranks: Ranks, clock: Clock, settings: Settings, tick: Callable[[str], None]
) -> tuple[dict[str, float], list[dict[str, object]]]:
    """Measure the rates of ``DeviceRates``; return them, and the single measurements.

    Both are the same on all ranks.

    Args:
        ranks: All ranks; each must make the same call.
        clock: The clock of this rank's device.
        settings: The number and duration of rounds.
        tick: A function that is told the next measurement.
    """
    timed = probes(ranks.device)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # the rate of float32 is without TF32
    times = []
    try:
        for probe in timed:
            tick(" ".join([probe.what, _short(probe.dtype), "x".join(map(str, probe.shape))]))
            times.append(median_us(ranks, clock, settings, probe.make()))
    finally:
        torch.set_float32_matmul_precision(precision)
    *times, host = ranks.slowest([*times, host_launch_us(ranks.device, clock, settings.rounds)])
    rates = rates_of(timed, times) | {"host_launch_us": host}
    if ranks.device.type == "cuda":
        device = torch.cuda.get_device_properties(ranks.device)
        rates["multiprocessors"] = float(device.multi_processor_count)
    return rates, [_entry(probe, time) for probe, time in zip(timed, times, strict=True)]


def rates_of(timed: list[Probe], times: list[float]) -> dict[str, float]:
    """Return the rates for measured microseconds: the best shape's for each kind of operation."""
    speeds: dict[tuple[str, torch.dtype], float] = {}
    for probe, time_us in zip(timed, times, strict=True):
        key = (probe.what, probe.dtype)
        speeds[key] = max(speeds.get(key, 0.0), probe.amount / time_us)
    more = {}
    if ("matmul", FLOAT8) in speeds:
        more["float8_tflops"] = speeds["matmul", FLOAT8] / 1e6
    attention = next(p.dtype for p in timed if p.what == "attention_forward")
    return more | {
        "half_tflops": speeds["matmul", torch.bfloat16] / 1e6,
        "single_tflops": speeds["matmul", torch.float32] / 1e6,
        "memory_gb_s": speeds["copy", torch.uint8] / 1e3,
        "launch_us": 1 / speeds["launch", torch.float32],
        "attention_forward_tflops": speeds["attention_forward", attention] / 1e6,
        "attention_backward_tflops": speeds["attention_backward", attention] / 1e6,
    }


def _entry(probe: Probe, time_us: float) -> dict[str, object]:
    entry: dict[str, object] = {"what": probe.what, "dtype": _short(probe.dtype)}
    if probe.shape:
        entry["shape"] = list(probe.shape)
    return entry | {"amount": probe.amount, "time_us": time_us}


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
