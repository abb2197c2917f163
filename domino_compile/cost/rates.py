"""Sustained rates of devices, for predicting how long operations take.

A prediction needs the right order of magnitude and must be the same on every rank: the rates are a
table, never measured while compiling. ``DOMINO_COMPILE_RATES=FILE`` puts rates that ``domino
calibrate`` measured before in the table's place. The file is read on every rank and must say the
same on all; ranks that plan differently because it does not are an error (``ranks.py``), not a
hang.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import torch

from domino_compile.cost.rates_file import USED, VARIABLE, RatesError, RatesFile, named_rates


@dataclass(frozen=True)
class DeviceRates:
    """What a device sustains.

    Attributes:
        name: the device, as matched in its reported name.
        half_tflops: matrix products in bf16 or fp16, 10^12 operations a second.
        single_tflops: matrix products in float32 (with TF32 off), likewise.
        memory_gb_s: bytes read plus written, 10^9 a second.
        launch_us: the least time of any kernel.
        link: the link table that is assumed where none is named.
    """

    name: str
    half_tflops: float
    single_tflops: float
    memory_gb_s: float
    launch_us: float
    link: str

    def matmul_us(self, operations: float, dtype: torch.dtype) -> float:
        """Time of a matrix product of so many multiplications and additions."""
        half = dtype in (torch.bfloat16, torch.float16)
        rate = self.half_tflops if half else self.single_tflops
        if dtype == torch.float64:
            rate = self.single_tflops / 2
        return operations / (rate * 1e6)

    def memory_us(self, nbytes: float) -> float:
        """Time of moving so many bytes."""
        return nbytes / (self.memory_gb_s * 1e3)


#: Rates that large kernels reach, below the data sheets' peaks. H200: measured on one card, bf16
#: 8192 cubed at 788 TFLOP/s and a device copy at 4.3 TB/s; the others are their data sheets'
#: numbers times the same fraction (0.8 and 0.9).
TABLE = (
    DeviceRates("H200", 750, 52, 4300, 2.0, "h200-nvlink-8"),
    DeviceRates("H100", 750, 52, 3000, 2.0, "h200-nvlink-8"),
    DeviceRates("A100", 250, 15.6, 1800, 2.0, "h200-nvlink-8"),
    DeviceRates("B200", 1800, 60, 7200, 2.0, "h200-nvlink-8"),
    DeviceRates("MI300", 1000, 130, 4700, 2.0, "h200-nvlink-8"),
)
#: An accelerator that the table does not know.
OTHER_ACCELERATOR = DeviceRates("accelerator", 250, 15, 1800, 2.0, "h200-nvlink-8")
#: A few CPU cores.
CPU = DeviceRates("cpu", 0.06, 0.06, 10, 1.0, "demo-2")


def rates_for(device: torch.device) -> DeviceRates:
    """The rates of a device: those of ``DOMINO_COMPILE_RATES`` if it names a file, or the table's.

    A file for another type of device (a GPU's, for a graph on the CPU) does not count.

    Raises:
        RatesError: the file is malformed, or is of another GPU.
    """
    if device.type == "cpu":
        known, name = CPU, "cpu"
    else:
        name = torch.cuda.get_device_name(device) if torch.cuda.is_available() else ""
        known = next((rates for rates in TABLE if rates.name in name), OTHER_ACCELERATOR)
    measured = named_rates()
    if measured is None or measured.device_type != device.type:
        return known
    return _calibrated(known, measured, name)


def _calibrated(known: DeviceRates, measured: RatesFile, name: str) -> DeviceRates:
    """``known`` with the rates of a file, for the device called ``name``."""
    if measured.device_type != "cpu" and name and name != measured.device:
        raise RatesError(
            f"{VARIABLE}: its rates are of {measured.device!r}, this device is {name!r}; measure"
            " this one with domino calibrate, or unset the variable"
        )
    rates = measured.rates
    return replace(
        known,
        name=measured.device,
        half_tflops=rates["half_tflops"],
        single_tflops=rates["single_tflops"],
        memory_gb_s=rates["memory_gb_s"],
        launch_us=rates["launch_us"],
    )


def rates_identity() -> str:
    """What the file in use says of the rates, for cache keys; empty without one.

    Raises:
        RatesError: the file is malformed, or is of another GPU than the current one.
    """
    measured = named_rates()
    if measured is None:
        return ""
    if measured.device_type != "cpu" and torch.cuda.is_available():
        rates_for(torch.device("cuda", torch.cuda.current_device()))
    used = {name: measured.rates[name] for name in USED}
    return json.dumps([measured.device_type, measured.device, used])
