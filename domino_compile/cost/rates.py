"""Sustained rates of devices, for predicting how long operations take.

A prediction needs the right order of magnitude and must be the same on every rank: the rates are a
table, never measured while compiling.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


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
    """The rates of a device."""
    if device.type == "cpu":
        return CPU
    name = torch.cuda.get_device_name(device) if torch.cuda.is_available() else ""
    return next((rates for rates in TABLE if rates.name in name), OTHER_ACCELERATOR)
