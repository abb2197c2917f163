"""Read and write link tables as JSON (format: ``domino_compile/links/README.md``)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from domino_compile.errors import did_you_mean
from domino_compile.links.contention import Contention
from domino_compile.links.table import COLLECTIVES, Curve, LinkError, LinkTable, busbw_factor
from domino_compile.links.user import links_folder

DATA = Path(__file__).parent
#: The version of the file format; a file without a version has version 1. Version 2 adds
#: ``contention``, and only files that have it are written as version 2.
SCHEMA = 2
_MIB = 1 << 20
_REQUIRED = ("name", "source", "ranks", "nodes", "collectives")
_OPTIONAL = ("schema", "busbw_ratio", "ctas", "made_up", "modelled", "note", "nccl", "contention")
_POINT_KEYS = ("size_bytes", "size_mib", "time_us", "busbw_gb_s", "floor_us")
_CONTENTION_KEYS = ("product", "products", "memory", "collectives", "regained")
_MODEL_KEYS = ("latency_us", "algbw_gb_s", "ramp_bytes_per_rank", "ramp")
# A model is tabulated at every power of two in this range, 4 KiB to 16 GiB.
_MODEL_SIZES = tuple(1 << bits for bits in range(12, 35))


class _Reader:
    """Typed access to one JSON object, with errors that name the file and the key."""

    def __init__(self, where: str, data: object, prefix: str = "") -> None:
        self.where, self.prefix = where, prefix
        if not isinstance(data, dict):
            raise self.error("", "must be a JSON object")
        self.data: dict[str, Any] = data

    def error(self, key: str, problem: str) -> LinkError:
        path = f"{self.prefix}{key}".rstrip(".") or "(top level)"
        return LinkError(f"link file {self.where}: {path}: {problem}")

    def only(self, known: Sequence[str]) -> None:
        for key in self.data:
            if key not in known:
                hint = did_you_mean(key, known)
                raise self.error(key, f"unknown key{hint}; known: {', '.join(known)}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self.data.get(key, default)
        if not isinstance(value, str) or (default is None and not value):
            raise self.error(key, "must be a string" if key in self.data else "is missing")
        return value

    def integer(self, key: str, least: int, default: int | None = None) -> int:
        value = self.data.get(key, default)
        if value is None:
            raise self.error(key, "is missing")
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(key, f"must be a whole number of at least {least}, not {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.data.get(key, default)
        if value is None:
            raise self.error(key, "is missing")
        return self._positive(key, value)

    def numbers(self, key: str) -> list[float]:
        value = self.data.get(key)
        if not isinstance(value, list) or not value:
            problem = "must be a list of numbers" if key in self.data else "is missing"
            raise self.error(key, problem)
        return [self._positive(f"{key}[{i}]", item) for i, item in enumerate(value)]

    def _positive(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(key, f"must be a number, not {value!r}")
        try:
            number = float(value)
        except OverflowError:  # an integer of hundreds of digits
            number = math.inf
        if not math.isfinite(number) or number <= 0:
            raise self.error(key, f"must be positive and finite, not {value!r}")
        return number

    def slowdown(self, key: str, default: float | None = None) -> float:
        value = self.number(key, default)
        if value < 1:
            raise self.error(key, f"must be at least 1 (nothing is faster beside), not {value!r}")
        return value

    def share(self, key: str) -> float:
        value = self.data.get(key, 0.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not -1 <= value < 1:
            raise self.error(key, f"must be at least -1 and less than 1, not {value!r}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.data.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {value!r}")
        return value

    def child(self, key: str, data: object) -> _Reader:
        return _Reader(self.where, data, f"{self.prefix}{key}.")


def _ramp_at(sizes: list[float], ramp: list[float], size: float) -> float:
    """Return the ramp at ``size`` bytes per rank: linear in log2(size), constant past both ends."""
    if size <= sizes[0]:
        return ramp[0]
    for (s0, r0), (s1, r1) in pairwise(zip(sizes, ramp, strict=True)):
        if size <= s1:
            return r0 + (r1 - r0) * math.log(size / s0) / math.log(s1 / s0)
    return ramp[-1]


def _model_curve(reader: _Reader, ranks: int) -> Curve:
    """Tabulate ``latency_us + bytes / (algbw * ramp(bytes / ranks))`` at powers of two."""
    latency, algbw = reader.number("latency_us"), reader.number("algbw_gb_s")
    sizes, ramp = [1.0], [1.0]
    if "ramp" in reader.data:
        sizes, ramp = reader.numbers("ramp_bytes_per_rank"), reader.numbers("ramp")
        if len(sizes) != len(ramp):
            raise reader.error("ramp", f"has {len(ramp)} values for {len(sizes)} sizes")
    points: list[tuple[int, float]] = []
    highest = latency
    for nbytes in _MODEL_SIZES:
        rate = algbw * 1e3 * _ramp_at(sizes, ramp, nbytes / ranks)  # bytes per microsecond
        highest = max(highest, latency + nbytes / rate)
        points.append((nbytes, highest))
    return Curve(tuple(points), latency)


def _measured_times(reader: _Reader, name: str, ranks: int, sizes: list[float]) -> list[float]:
    key = "time_us" if "time_us" in reader.data else "busbw_gb_s"
    if key not in reader.data:
        raise reader.error("time_us", "is missing (or give busbw_gb_s, or a model's latency_us)")
    values = reader.numbers(key)
    if len(values) != len(sizes):
        raise reader.error(key, f"has {len(values)} values for {len(sizes)} sizes")
    if key == "time_us":
        return values
    factor = busbw_factor(name, ranks)
    return [size * factor / (busbw * 1e3) for size, busbw in zip(sizes, values, strict=True)]


def _measured_curve(reader: _Reader, name: str, ranks: int) -> Curve:
    if "size_bytes" in reader.data:
        key, sizes = "size_bytes", reader.numbers("size_bytes")
    else:
        key, sizes = "size_mib", [size * _MIB for size in reader.numbers("size_mib")]
    times = _measured_times(reader, name, ranks, sizes)
    points = tuple((round(size), time) for size, time in zip(sizes, times, strict=True))
    for i, (nbytes, _) in enumerate(points):
        if nbytes < 1:
            value = reader.data[key][i]
            raise reader.error(f"{key}[{i}]", f"must be at least one byte, not {value!r}")
    for (b0, t0), (b1, t1) in pairwise(points):
        if b1 <= b0:
            raise reader.error(key, "must increase")
        if t1 < t0:
            raise reader.error(key, f"the time falls from {b0} to {b1} bytes")
    first_us = points[0][1]
    floor = reader.number("floor_us", _intercept(points))
    if floor > first_us:
        raise reader.error("floor_us", f"is above the first point ({first_us:.1f} us)")
    return Curve(points, floor)


def _intercept(points: tuple[tuple[int, float], ...]) -> float:
    """Return the time of an empty payload, from the line through the first two measured points.

    It is clamped between a tenth of the first point's time and all of it.
    """
    first_bytes, first_us = points[0]
    if len(points) == 1:
        return first_us
    second_bytes, second_us = points[1]
    slope = (second_us - first_us) / (second_bytes - first_bytes)
    return min(first_us, max(first_us - slope * first_bytes, first_us / 10))


def _curve(reader: _Reader, name: str, ranks: int) -> Curve:
    reader.only(_POINT_KEYS + _MODEL_KEYS)
    if "latency_us" in reader.data:
        return _model_curve(reader, ranks)
    return _measured_curve(reader, name, ranks)


def _contention(reader: _Reader) -> Contention:
    reader.only(_CONTENTION_KEYS)
    extents = reader.numbers("product")
    if len(extents) != 3 or any(extent != round(extent) for extent in extents):
        raise reader.error("product", "must be three whole numbers: rows, columns, contracted")
    beside = reader.child("collectives", reader.data.get("collectives", {}))
    beside.only(COLLECTIVES[:-1])
    rows, columns, inner = map(round, extents)
    return Contention(
        product=(rows, columns, inner),
        products=reader.slowdown("products"),
        memory=reader.slowdown("memory", 1.0),
        collectives={name: beside.slowdown(name) for name in beside.data},
        regained=reader.share("regained"),
    )


def parse_link(data: object, where: str) -> LinkTable:
    """Return a ``LinkTable`` from decoded JSON.

    Raises:
        LinkError: The table is malformed. The one-line message names ``where`` and the wrong key.
    """
    reader = _Reader(where, data)
    schema = reader.integer("schema", 1, SCHEMA)
    if schema > SCHEMA:
        raise reader.error("schema", f"is {schema}; this version reads up to {SCHEMA}: upgrade it")
    reader.only(_REQUIRED + _OPTIONAL)
    ranks = reader.integer("ranks", 2)
    collectives = reader.child("collectives", reader.data.get("collectives"))
    collectives.only(COLLECTIVES[:-1])
    if "all_reduce" not in collectives.data:
        raise collectives.error("all_reduce", "is missing")
    ratio = reader.child("busbw_ratio", reader.data.get("busbw_ratio", {}))
    ratio.only(COLLECTIVES[:-1])
    is_model = any(
        isinstance(curve, dict) and "latency_us" in curve for curve in collectives.data.values()
    )
    return LinkTable(
        name=reader.text("name"),
        ranks=ranks,
        nodes=reader.integer("nodes", 1),
        source=reader.text("source"),
        curves={
            name: _curve(collectives.child(name, value), name, ranks)
            for name, value in collectives.data.items()
        },
        busbw_ratio={name: ratio.number(name) for name in ratio.data},
        ctas=reader.integer("ctas", 0, 16),
        made_up=reader.flag("made_up", False),
        modelled=reader.flag("modelled", is_model),
        note=reader.text("note", ""),
        nccl=reader.text("nccl", ""),
        contention=(
            _contention(reader.child("contention", reader.data["contention"]))
            if "contention" in reader.data
            else None
        ),
    )


def _read(path: Path) -> LinkTable:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LinkError(f"link file {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise LinkError(f"link file {path}: not JSON ({error})") from error
    return parse_link(data, str(path))


def _read_named(path: Path) -> LinkTable:
    """Read a table from the user's folder, where the file's name is the table's name.

    A user's table must not have the name of one in the package: the same name would mean different
    tables on machines with and without the file.
    """
    if (DATA / path.name).is_file():
        raise LinkError(f"link file {path}: the package has a table of this name; rename the file")
    table = _read(path)
    if table.name != path.stem:
        raise LinkError(
            f"link file {path}: name: must be {path.stem!r} like the file, not {table.name!r}"
        )
    return table


@dataclass(frozen=True)
class LinkFile:
    """One file in the package's or the user's folder.

    Attributes:
        path: The path of the file.
        user: Whether the file is in the user's folder.
        table: The file's table; ``None`` if the file is broken.
        problem: One line that names the file and says why it is broken; empty if it is not.
    """

    path: Path
    user: bool
    table: LinkTable | None
    problem: str = ""


def link_files() -> list[LinkFile]:
    """Return all files, broken ones too: the package's by name, then the user's by name."""
    files = [LinkFile(path, False, _read(path)) for path in _by_name(DATA)]
    for path in _user_paths():
        try:
            files.append(LinkFile(path, True, _read_named(path)))
        except LinkError as error:
            files.append(LinkFile(path, True, None, str(error)))
    return files


def _user_paths() -> list[Path]:
    try:
        return _by_name(links_folder())
    except OSError:  # an unreadable folder counts as empty
        return []


def _by_name(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"), key=lambda path: path.stem)


def list_links() -> list[LinkTable]:
    """Return the tables in the package, by name, and then the user's readable ones."""
    return [file.table for file in link_files() if file.table is not None]


def load_link(name_or_path: str | os.PathLike[str] | LinkTable) -> LinkTable:
    """Return a link table by its name, or from a JSON file.

    Args:
        name_or_path: A name in ``list_links()``, a path (ends in ``.json`` or has a separator),
            or a table, which is returned unchanged.

    Raises:
        LinkError: The name is unknown (the message suggests others), or the file is malformed.
    """
    if isinstance(name_or_path, LinkTable):
        return name_or_path
    text = os.fspath(name_or_path)
    if text.endswith(".json") or os.sep in text or not isinstance(name_or_path, str):
        return _read(Path(text))
    path = DATA / f"{text}.json"
    if path.is_file():
        return _read(path)
    users = {path.stem: path for path in _user_paths()}
    if text in users:
        return _read_named(users[text])
    known = sorted([path.stem for path in DATA.glob("*.json")] + list(users))
    hint = did_you_mean(text, known)
    raise LinkError(
        f"unknown link {text!r}{hint}; known: {', '.join(known)}, or the path of a JSON file"
    )


def save_link(table: LinkTable, path: str | os.PathLike[str]) -> None:
    """Write ``table`` so that ``load_link(path)`` returns it.

    Raises:
        LinkError: The file cannot be written.
    """
    try:
        Path(path).write_text(json.dumps(_as_json(table), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise LinkError(f"link file {path}: {error.strerror or error}") from error


def _as_json(table: LinkTable) -> Mapping[str, object]:
    collectives = {
        name: {
            "size_bytes": [nbytes for nbytes, _ in curve.points],
            "time_us": [time for _, time in curve.points],
            "floor_us": curve.floor_us,
        }
        for name, curve in table.curves.items()
    }
    more = {} if table.contention is None else {"contention": asdict(table.contention)}
    return more | {
        "schema": SCHEMA if more else 1,
        "name": table.name,
        "ranks": table.ranks,
        "nodes": table.nodes,
        "source": table.source,
        "nccl": table.nccl,
        "note": table.note,
        "made_up": table.made_up,
        "modelled": table.modelled,
        "ctas": table.ctas,
        "busbw_ratio": dict(table.busbw_ratio),
        "collectives": collectives,
    }
