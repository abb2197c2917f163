"""Read the folder that ``dump_dir`` named."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from domino_compile.errors import DominoError
from domino_compile.report import CompileReport
from domino_compile.report.graph_rows import read_rows
from domino_compile.tools.html.data import GraphView


class DumpError(DominoError, ValueError):
    """A folder is not a dump, or was written by another version."""


@dataclass(frozen=True)
class Dump:
    """The compiled graphs of one rank.

    Attributes:
        rank: The rank.
        reports: The report of each graph, by number.
        graphs: The operations of the graphs that have collectives.
    """

    rank: int
    reports: tuple[CompileReport, ...]
    graphs: tuple[GraphView, ...]


def read_dump(folder: Path, rank: int | None = None) -> Dump:
    """Read a dump.

    Args:
        folder: ``dump_dir``, a ``rank_<n>`` in it, or one ``graph_<n>`` of that.
        rank: The rank whose graphs are read; None for the lowest.

    Raises:
        DumpError: There is no dump, or another version of this package wrote it.
    """
    if not folder.is_dir():
        raise DumpError(f"{folder}: no such folder; dump_dir of a compile is expected")
    ranks = {number: path for path, number in _numbered(folder, "rank")}
    if rank is None:
        rank = min(ranks, default=_number(folder.resolve(), "rank") or 0)
    elif rank not in ranks:
        known = ", ".join(map(str, sorted(ranks))) or "none"
        raise DumpError(f"{folder}: no dump of rank {rank} in it; ranks: {known}")
    base = ranks.get(rank, folder)
    folders = [path for path, _ in _numbered(base, "graph")]
    if (base / "plan.json").is_file():
        folders = [base]
    if not folders:
        raise DumpError(
            f"{folder}: no dump in it; set options={{'dump_dir': ...}} or DOMINO_COMPILE_DUMP_DIR "
            "and run the script again"
        )
    reports = tuple(_report(path / "plan.json") for path in folders)
    views = (_view(path, report) for path, report in zip(folders, reports, strict=True))
    return Dump(rank, reports, tuple(view for view in views if view is not None))


def _numbered(folder: Path, kind: str) -> Iterator[tuple[Path, int]]:
    """Yield the sub-folders ``kind_<n>`` with a content, in the order of their numbers."""
    entries = [(n, path) for path in folder.iterdir() if (n := _number(path, kind)) is not None]
    for number, path in sorted(entries):
        if path.is_dir() and any(path.rglob("plan.json")):
            yield path, number


def _number(path: Path, kind: str) -> int | None:
    match = re.fullmatch(rf"{kind}_(\d+)", path.name)
    return int(match[1]) if match else None


def _report(path: Path) -> CompileReport:
    try:
        return CompileReport.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise DumpError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _other_version(path, error) from None


def _view(folder: Path, report: CompileReport) -> GraphView | None:
    path = folder / "graphs.json"
    if not path.is_file():
        return None
    try:
        before, after = read_rows(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError, KeyError) as error:
        raise _other_version(path, error) from None
    return GraphView(report.graph, report.summary(), before, after)


def _other_version(path: Path, error: Exception) -> DumpError:
    what = str(error) if "schema version" in str(error) else "it has another form"
    return DumpError(
        f"{path}: not a dump of this version of domino_compile ({what}): dump again with it, or "
        "read it with the version that wrote it"
    )
