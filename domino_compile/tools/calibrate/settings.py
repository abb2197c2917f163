"""The settings of a calibration, checked before anything starts."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from domino_compile.errors import DominoError
from domino_compile.links.load import DATA
from domino_compile.links.user import config_folder, links_folder

KIB, MIB = 1 << 10, 1 << 20
#: The payloads in bytes that are measured by default.
DEFAULT_SIZES = {
    "cuda": (64 * KIB, 256 * KIB, *(MIB << bits for bits in range(11))),
    "cpu": tuple(16 * KIB << 2 * bits for bits in range(7)),
}
DEFAULT_ROUNDS = {"cuda": 7, "cpu": 5}
_UNITS = {"": 1, "k": KIB, "m": MIB, "g": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class CalibrateError(DominoError, RuntimeError):
    """A calibration cannot run, or failed. The message is one line that says what to do.

    Attributes:
        code: The exit code of the command: 2 if it could not begin, 1 if it failed later.
    """

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Settings:
    """The measurements to make, and where results go.

    Attributes:
        device: ``cpu`` or ``cuda``.
        sizes: The payloads in bytes, increasing.
        rounds: How often each time is measured; the median counts.
        round_s: The minimum duration of one round of repetitions, in seconds.
        group_sizes: The group sizes to measure; empty for one group of all ranks.
        name: The name of the link table; ``None`` takes the file's name, or makes one from the
            device and the group size.
        out: The file of the link table; ``None`` chooses one in the user's folder by name.
        rates_out: The file of the device's rates; ``None`` chooses one in the user's folder by
            device.
        ctas: The thread blocks that a collective holds, for the table; ``None`` measures them on a
            GPU and takes 16 elsewhere.
        timeout_s: How many seconds ranks wait for each other.
    """

    device: str
    sizes: tuple[int, ...]
    rounds: int
    round_s: float = 0.02
    group_sizes: tuple[int, ...] = ()
    name: str | None = None
    out: Path | None = None
    rates_out: Path | None = None
    ctas: int | None = None
    timeout_s: float = 300.0

    def __post_init__(self) -> None:
        several = len(self.group_sizes) > 1
        if several and self.out is not None:
            raise CalibrateError(
                "--out names one file, but there is a table for each of several group sizes;"
                " leave it out: the tables go to the user's folder"
            )
        if self.name is not None:
            check_name(self.name)
        if self.out is None or self.name in (None, self.out.stem):
            return
        if self.out.parent.resolve() == links_folder().resolve():
            raise CalibrateError(
                f"--out {self.out}: a table in this folder is called like its file; leave --name"
                " out"
            )

    def table_name(self, device: str, ranks: int) -> str:
        """Return the name of the table for groups of ``ranks`` ranks on a device of that name."""
        if self.name is None and self.out is not None:
            return self.out.stem
        if self.name is None:
            return f"{'cpu-gloo' if self.device == 'cpu' else slug(device)}-{ranks}"
        return f"{self.name}-{ranks}" if len(self.group_sizes) > 1 else self.name

    def table_file(self, name: str) -> Path:
        """Return the file for the table of that name."""
        return self.out or links_folder() / f"{name}.json"

    def rates_file(self, device: str) -> Path:
        """Return the file for the rates of a device of that name."""
        stem = "cpu" if self.device == "cpu" else slug(device)
        return self.rates_out or config_folder() / f"rates-{stem}.json"


def parse_sizes(text: str) -> tuple[int, ...]:
    """Parse payloads like ``64K,1MiB,4MB,1048576``; return bytes, increasing. Units are 1024-based.

    Raises:
        CalibrateError: A size cannot be read, or is less than 4 bytes.
    """
    sizes: set[int] = set()
    for part in text.split(","):
        match = _SIZE.fullmatch(part.strip())
        if match is None:
            raise CalibrateError(f"sizes: cannot read {part.strip()!r}; write like 64K,1MiB,32MiB")
        nbytes = int(float(match[1]) * _UNITS[match[2].lower()])
        if nbytes < 4:
            raise CalibrateError(f"sizes: {part.strip()!r} is less than 4 bytes")
        sizes.add(nbytes)
    return tuple(sorted(sizes))


def parse_group_sizes(text: str) -> tuple[int, ...]:
    """Parse group sizes like ``2,4,8``; return them increasing.

    Raises:
        CalibrateError: A size is not a whole number of at least 2.
    """
    sizes: set[int] = set()
    for part in text.split(","):
        if not part.strip().isdecimal() or int(part) < 2:
            raise CalibrateError(
                f"group size: must be a whole number of at least 2, not {part.strip()!r}"
            )
        sizes.add(int(part))
    return tuple(sorted(sizes))


def check_name(name: str) -> None:
    """Refuse a name that a table cannot have.

    Raises:
        CalibrateError: The name is not a plain file name, or the package has a table of that name.
    """
    if _NAME.fullmatch(name) is None or name.endswith(".json"):
        raise CalibrateError(
            f"name: use letters, digits, '.', '_' and '-', without '.json', not {name!r}"
        )
    if (DATA / f"{name}.json").is_file():
        raise CalibrateError(f"name: the package has a table called {name!r}; choose another")


def check_group_sizes(sizes: Sequence[int], world: int) -> None:
    """Refuse group sizes that do not divide the ranks.

    Raises:
        CalibrateError: A size does not divide the number of ranks.
    """
    for size in sizes:
        if world % size:
            raise CalibrateError(f"group size: {world} ranks cannot be cut into groups of {size}")


def check_writable(path: Path) -> None:
    """Make the file's folder, and check before measuring that the file can be written.

    Raises:
        CalibrateError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        reason = why_unwritable(path)
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise CalibrateError(f"cannot write {path}: {reason}; name another file")


def why_unwritable(path: Path) -> str:
    """Return why no file can be written there; empty if one can. Nothing is left behind."""
    if path.is_dir():
        return "it is a folder"
    if not path.absolute().parent.is_dir():
        return "no such folder"
    if path.exists():
        return "" if os.access(path, os.W_OK) else "it is write-protected"
    try:
        with tempfile.TemporaryFile(dir=path.absolute().parent):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def slug(device: str) -> str:
    """Return a device's name for file names: in lower case, with words joined by dashes."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") or "device"
