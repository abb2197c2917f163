"""Tables of BENCHMARKS.md that are written from results, each between two lines of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.lane import Row

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "BENCHMARKS.md", ROOT / "benchmarks/results"


def marks(name: str) -> tuple[str, str]:
    """The lines that a table stands between.

    Args:
        name: the module whose results it shows.
    """
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def put(page: str, name: str, table: str) -> str:
    """The page with a table in its place.

    Raises:
        ValueError: the page has no place for it.
    """
    begin, end = marks(name)
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page lacks {begin} or {end}")
    return f"{before}{begin}\n{table}\n{end}{after}"


def as_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def read(name: str) -> list[Row]:
    """Published rows; none if there is no such file.

    Args:
        name: of the file in ``benchmarks/results``.
    """
    path = RESULTS / name
    rows: list[Row] = json.loads(path.read_text()) if path.exists() else []
    return rows


def number(value: float | None, form: str) -> str:
    """A number as a table shows it; nothing where it was not measured."""
    return "" if value is None else format(value, form)
