"""Measured rates of a device, as a versioned JSON file that ``domino calibrate`` writes.

The cost model uses such a file only if ``DOMINO_COMPILE_RATES`` names one: predictions must be the
same on every rank, and a file that is picked up automatically would differ between machines.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from domino_compile.errors import OptionError

#: The environment variable that names the file to use.
VARIABLE = "DOMINO_COMPILE_RATES"
SCHEMA = 1
#: The rates that the cost model takes from a file; units as in ``DeviceRates``.
USED = ("half_tflops", "single_tflops", "memory_gb_s", "launch_us")
#: Further rates that it takes if the file has them; otherwise the table's are used.
OPTIONAL = (
    "attention_forward_tflops",
    "attention_backward_tflops",
    "multiprocessors",
    "fused_share",
    "float8_tflops",
)


class RatesError(OptionError):
    """A rates file is malformed or belongs to another device. Its one line names the file."""


@dataclass(frozen=True)
class RatesFile:
    """The rates that were measured on one device.

    Attributes:
        device_type: ``cpu`` or ``cuda`` (also for ROCm).
        device: The device's name as torch reports it, or the processor's.
        source: How and when the rates were measured.
        rates: The rates by name, which ends in the unit: those of ``USED``, and others for
            information.
        measured: The single measurements behind the rates, as JSON data.
    """

    device_type: str
    device: str
    source: str
    rates: Mapping[str, float] = field(hash=False)
    measured: Sequence[Mapping[str, object]] = field(default=(), hash=False)

    def as_json(self) -> dict[str, object]:
        """Return the content of the file."""
        return {
            "schema": SCHEMA,
            "device_type": self.device_type,
            "device": self.device,
            "source": self.source,
            "rates": dict(self.rates),
            "measured": [dict(entry) for entry in self.measured],
        }


def save_rates(rates: RatesFile, path: Path) -> None:
    """Write the file, all at once: nobody reads half of it.

    Raises:
        RatesError: The file cannot be written.
    """
    partial = path.with_name(f"{path.name}.{uuid4().hex}")
    try:
        partial.write_text(json.dumps(rates.as_json(), indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise RatesError(f"rates file {path}: {error.strerror or error}") from error


def load_rates(path: str | os.PathLike[str]) -> RatesFile:
    """Read and check a file.

    Raises:
        RatesError: The file cannot be read, or is malformed.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RatesError(f"rates file {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise RatesError(f"rates file {path}: not JSON ({error})") from error
    return _parse(data, f"rates file {path}")


def _parse(data: object, where: str) -> RatesFile:
    if not isinstance(data, dict) or not isinstance(data.get("rates"), dict):
        raise RatesError(f"{where}: rates: must be a JSON object in a JSON object")
    if data.get("schema") != SCHEMA:
        given = data.get("schema")
        raise RatesError(
            f"{where}: schema: must be {SCHEMA}, not {given!r}; measure again with domino calibrate"
        )
    texts = {key: data.get(key) for key in ("device_type", "device", "source")}
    for key, text in texts.items():
        if not isinstance(text, str) or not text:
            raise RatesError(f"{where}: {key}: must be a string that is not empty")
    if texts["device_type"] not in ("cpu", "cuda"):
        raise RatesError(f"{where}: device_type: must be 'cpu' or 'cuda'")
    for name in USED:
        if name not in data["rates"]:
            raise RatesError(f"{where}: rates.{name}: is missing")
    rates = {name: _rate(value, f"{where}: rates.{name}") for name, value in data["rates"].items()}
    measured = data.get("measured", [])
    if not isinstance(measured, list) or not all(isinstance(entry, dict) for entry in measured):
        raise RatesError(f"{where}: measured: must be a list of JSON objects")
    return RatesFile(
        str(texts["device_type"]), str(texts["device"]), str(texts["source"]), rates, measured
    )


def _rate(value: object, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number) and number > 0:
            return number
    raise RatesError(f"{where}: must be a positive number, not {str(value)[:40]!r}")


def named_rates() -> RatesFile | None:
    """Load the file that ``DOMINO_COMPILE_RATES`` names; ``None`` if it is empty or not set.

    Raises:
        RatesError: The file cannot be read, or is malformed.
    """
    path = os.environ.get(VARIABLE, "").strip()
    return load_rates(path) if path else None
