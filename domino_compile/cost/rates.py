"""Sustained rates of devices, from which the times of operations are predicted.

A prediction must have the right order of magnitude and be equal on every rank. The rates are
therefore a table and are never measured while compiling. ``DOMINO_COMPILE_RATES=FILE`` replaces the
table by rates that ``domino calibrate`` has measured. Every rank reads the file, and its content
must be the same on all. If it is not and ranks plan differently, that is an error and not a hang.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import torch

from domino_compile.cost.fused import Fused
from domino_compile.cost.rates_file import (
    OPTIONAL,
    USED,
    VARIABLE,
    RatesError,
    RatesFile,
    named_rates,
)
from domino_compile.cost.waves import Product, time_factor

#: The types for which tensor cores run at full rate and products can be configured.
HALVES = (torch.bfloat16, torch.float16)
FLOAT8 = (
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
)


@dataclass(frozen=True)
class DeviceRates:
    """The rates that a device sustains.

    Attributes:
        name: A part of the name that the device reports.
        half_tflops: 10^12 operations per second of matrix products in bf16 or fp16 that fill the
            device.
        single_tflops: The same in float32, with TF32 off.
        memory_gb_s: 10^9 bytes per second, read plus written.
        launch_us: The microseconds of a kernel beyond its work: the gap before it, and its first
            and last blocks.
        link: The default link table.
        attention_forward_tflops: 10^12 operations per second of fused attention in bf16 or fp16
            with very many keys (``FEW_KEYS``), where a causal mask halves the operations.
        attention_backward_tflops: The same for its backward.
        multiprocessors: The number of multiprocessors. Tiles of products run on them, and thread
            blocks of collectives hold them. 0 if collectives take nothing from compute and products
            have no waves.
        configured: For products that are configured for the multiprocessors a collective leaves,
            their time relative to the time on the whole device divided by the share that is left; 0
            if they cannot be configured.
        fused_share: The share of ``memory_gb_s``, a copy's rate, that fused kernels reach (norms,
            dropout, reductions).
        hard_g_s: 10^9 elements per second of operations that take longer than moving their values,
            such as a random number or a sine; 0 if they cost nothing.
        library_mib: The workspace in MiB that torch allocates for its matrix library.
        float8_tflops: 10^12 operations per second of scaled products in float8; 0 if they are no
            faster than in bf16.
    """

    name: str
    half_tflops: float
    single_tflops: float
    memory_gb_s: float
    launch_us: float
    link: str
    attention_forward_tflops: float
    attention_backward_tflops: float
    multiprocessors: int = 0
    configured: float = 0.0
    fused_share: float = 0.82
    hard_g_s: float = 0.0
    library_mib: float = 8.0
    float8_tflops: float = 0.0

    def matmul_us(
        self, product: Product, dtype: torch.dtype, held: int = 0, configured: bool = False
    ) -> float:
        """Return the time of a matrix product while a collective holds multiprocessors.

        Args:
            product: The extents of the product.
            dtype: The type of its operands.
            held: The number of multiprocessors that the collective holds.
            configured: Whether to configure the product for the remaining ones, if possible.
        """
        full = product.operations / (self._tflops(dtype) * 1e6)
        beside = full * time_factor(product, self.multiprocessors, held)
        if not (held and configured and self.configured and dtype in HALVES):
            return beside
        undisturbed = full * time_factor(product, self.multiprocessors)
        share = self.multiprocessors / (self.multiprocessors - held)
        return min(beside, undisturbed * share * self.configured)

    def attention_us(
        self,
        operations: float,
        block: float,
        keys: float,
        dtype: torch.dtype,
        backward: bool,
        held: int = 0,
    ) -> float:
        """Return the time of fused attention, whose blocks share the multiprocessors.

        Args:
            operations: The number of operations of all blocks.
            block: The number of operations of the longest block, which limits the time if there are
                few heads and rows.
            keys: The number of keys that a query may see.
            dtype: The type of the result.
            backward: Whether this is attention's backward.
            held: The number of multiprocessors that a collective holds.
        """
        rate = self.attention_backward_tflops if backward else self.attention_forward_tflops
        share = self._tflops(dtype) / self.half_tflops
        taken = self.multiprocessors / (self.multiprocessors - held) if held else 1.0
        together = operations / (rate * share * 1e6) * taken
        if not self.multiprocessors:
            return together
        together *= with_few(keys)
        longest = block * self.multiprocessors / (ONE_BLOCK * self._tflops(dtype) * 1e6)
        return max(longest, together + TAIL * longest)

    def fused_us(self, work: Fused, held: int = 0, inductors: bool = False) -> float:
        """Return the time of a fused kernel without its launch.

        Work that is limited by memory is not slowed down by missing multiprocessors. A kernel that
        is generated by this package's rules goes over wide rows once (``_compat.kernels``) and
        moves data while it computes.

        Args:
            work: The kernel's work.
            held: The number of multiprocessors that a collective holds.
            inductors: Whether Inductor alone compiles the program.
        """
        moving = self.memory_us(work.bytes) / self.fused_share
        taken = self.multiprocessors / (self.multiprocessors - held) if held else 1.0
        hard = work.hard / (self.hard_g_s * 1e3) * taken if self.hard_g_s else 0.0
        once = work.wide and not inductors
        return (max(moving, hard / AT_ONCE) if once else moving + hard) + self._sums_us(work)

    def _sums_us(self, work: Fused) -> float:
        """Return the time of sums over rows in extra kernels: over some rows, then over all."""
        if not self.multiprocessors:
            return 0.0
        again = self.memory_us(SUM_BYTES * work.summed) / self.fused_share
        return SUM_KERNELS * work.sums * self.launch_us + again

    def held_by(self, ctas: int) -> int:
        """Return how many multiprocessors a collective's thread blocks hold: half at most."""
        return min(ctas, self.multiprocessors // 2)

    def _tflops(self, dtype: torch.dtype) -> float:
        if dtype in HALVES:
            return self.half_tflops
        if dtype in FLOAT8:
            return self.float8_tflops or self.half_tflops
        return self.single_tflops / 2 if dtype == torch.float64 else self.single_tflops

    def memory_us(self, nbytes: float) -> float:
        """Return the microseconds of moving ``nbytes``, read plus written."""
        return nbytes / (self.memory_gb_s * 1e3)


#: The share of the products' rate that a block of attention reaches if it has a multiprocessor to
#: itself, and the number of keys with which all blocks together reach half of their rate: with few
#: keys a block starts, masks and ends more often. Fitted, with ``TAIL`` and the H200's rates, to
#: kernels measured alone (512 to 2048 tokens, 4 to 128 heads, forward and backward; within 12 %)
#: and in the steps of 40 jobs of ``benchmarks.jobs`` (1024 to 8192 tokens, 4 to 64 heads; within 7
#: %, but for one of prefill, 15 %), heads 128 wide, causal, cuDNN's kernels.
ONE_BLOCK, FEW_KEYS = 0.75, 640
#: The share of ``hard_g_s`` that a kernel reaches while it computes the rest of a norm. 4096 rows
#: of 4096 behind dropout take 73 us alone on an H200, and 84 to 90 us beside a collective of 16
#: thread blocks on both H100 and H200; rows of 5120 take 94 us, and 103 to 108.
AT_ONCE = 0.79
#: A sum over rows takes this many kernels in addition to the one that makes the summed value, and
#: reads this many bytes of each element again. Kernel traces (H200, halves of 8 x 1024 tokens of
#: gpt3-6.7b): 16 to 18 us for the bias behind dropout (4096 columns), 11 behind GELU (2048), 9 for
#: the three products of attention (1536), and 7 for each of a norm's two gradients (4096), most of
#: which were read before.
SUM_KERNELS, SUM_BYTES = 2, 0.7
#: The mean share of the longest block that remains when the other blocks have ended.
TAIL = 0.4
#: The rates that large kernels reach, below the data sheets' peaks. The H200's were measured on one
#: card: a bf16 product of 8192 cubed at 788 TFLOP/s with its waves 97 % full, a device copy at 4.3
#: TB/s, causal attention of 512 to 8192 tokens in forward and backward, and the fused kernels of a
#: Llama's step (1.29 times as fast as on an H100, although a copy is 1.43 times as fast). On the
#: H100 these were measured: a device copy, and in the steps of a GPT and a Llama the share of its
#: rate that fused kernels reach, random numbers and sines (220 us for a norm behind dropout, of
#: which memory takes 100), and the time of small kernels. All other rates are the data sheets'
#: numbers times the same fractions (0.8 for products, 0.9 for memory, and attention at 0.78 of
#: products). Products in float8 are 1.88 times as fast as in bf16 in the H200's steps, where the
#: data sheet says 2; the same is assumed of the others.
TABLE = (
    DeviceRates(
        *("H200", 810, 52, 4300, 3.5, "h200-nvlink-8", 630, 630, 132, 1.07),
        fused_share=0.74, hard_g_s=290, library_mib=32, float8_tflops=1525,
    ),
    DeviceRates(
        *("H100", 810, 52, 3000, 3.5, "h200-nvlink-8", 630, 630, 132, 1.07),
        hard_g_s=290, library_mib=32, float8_tflops=1525,
    ),
    DeviceRates("A100", 250, 15.6, 1800, 3.5, "h200-nvlink-8", 195, 195, 108, 1.07, hard_g_s=190),
    DeviceRates(
        *("B200", 1800, 60, 7200, 3.5, "h200-nvlink-8", 1400, 1400, 148, 1.07),
        hard_g_s=350, library_mib=32, float8_tflops=3390,
    ),
    DeviceRates(
        *("MI300", 1000, 130, 4700, 3.5, "h200-nvlink-8", 780, 780, 304), float8_tflops=1880
    ),
)  # fmt: skip
#: An accelerator that the table does not know.
OTHER_ACCELERATOR = DeviceRates("accelerator", 250, 15, 1800, 3.5, "h200-nvlink-8", 195, 195, 108)
#: A few CPU cores.
CPU = DeviceRates("cpu", 0.06, 0.06, 10, 1.0, "demo-2", 0.06, 0.06, fused_share=1.0, library_mib=0)


def with_few(keys: float) -> float:
    """Return how many times longer attention takes than with very many keys."""
    return 1 + FEW_KEYS / max(keys, 1.0)


def device_names() -> tuple[str, ...]:
    """Return the names of the devices whose rates are known."""
    return (*(rates.name for rates in TABLE), CPU.name)


def rates_named(name: str) -> DeviceRates | None:
    """Return the table's rates of a device, given its full name; ``None`` if it is not there."""
    return next((rates for rates in (*TABLE, CPU) if rates.name in name), None)


def rates_for(device: torch.device | str) -> DeviceRates:
    """Return a device's rates: from the file ``DOMINO_COMPILE_RATES`` if set, or from the table.

    The file is not used if it is for another type of device (a GPU, when the graph runs on the
    CPU), nor if the device is only named, because that need not be the device of this machine.

    Args:
        device: A device of this machine, or one of ``device_names``.

    Raises:
        RatesError: The file is malformed, or belongs to another GPU.
    """
    if isinstance(device, str):
        return next(rates for rates in (*TABLE, CPU) if rates.name == device)
    if device.type == "cpu":
        known, name = CPU, "cpu"
    else:
        here = device.type == "cuda" and torch.cuda.is_available()
        name = torch.cuda.get_device_name(device) if here else ""
        known = rates_named(name) or OTHER_ACCELERATOR
    measured = named_rates()
    if measured is None or measured.device_type != device.type:
        return known
    return _calibrated(known, measured, name)


def _calibrated(known: DeviceRates, measured: RatesFile, name: str) -> DeviceRates:
    """Replace ``known`` rates by those of a file, for the device called ``name``."""
    if measured.device_type != "cpu" and name and name != measured.device:
        raise RatesError(
            f"{VARIABLE}: its rates are of {measured.device!r}, this device is {name!r}; measure"
            " this one with domino calibrate, or unset the variable"
        )
    rates = measured.rates
    faster = rates["half_tflops"] / known.half_tflops
    forward, backward = known.attention_forward_tflops, known.attention_backward_tflops
    return replace(
        known,
        name=measured.device,
        half_tflops=rates["half_tflops"],
        single_tflops=rates["single_tflops"],
        memory_gb_s=rates["memory_gb_s"],
        launch_us=rates["launch_us"],
        attention_forward_tflops=rates.get("attention_forward_tflops", faster * forward),
        attention_backward_tflops=rates.get("attention_backward_tflops", faster * backward),
        multiprocessors=int(rates.get("multiprocessors", known.multiprocessors)),
        fused_share=rates.get("fused_share", known.fused_share),
        float8_tflops=rates.get("float8_tflops", faster * known.float8_tflops),
    )


def rates_identity() -> str:
    """Return the rates of the file in use as text, for cache keys; empty if there is no file.

    Raises:
        RatesError: The file is malformed, or belongs to a GPU other than the current one.
    """
    measured = named_rates()
    if measured is None:
        return ""
    if measured.device_type != "cpu" and torch.cuda.is_available():
        rates_for(torch.device("cuda", torch.cuda.current_device()))
    used = {name: measured.rates.get(name) for name in (*USED, *OPTIONAL)}
    return json.dumps([measured.device_type, measured.device, used])
