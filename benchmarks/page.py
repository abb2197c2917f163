"""Tables in BENCHMARKS.md that are generated from results, each between two marker lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.lane import Row

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "BENCHMARKS.md", ROOT / "benchmarks/results"


def marks(name: str) -> tuple[str, str]:
    """Return the two lines between which a table stands.

    Args:
        name: the module whose results the table shows.
    """
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def put(page: str, name: str, table: str) -> str:
    """Return the page with a table in its place.

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
    """Return a table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def read(name: str) -> list[Row]:
    """Return published rows; none if there is no such file.

    Args:
        name: the name of the file in ``benchmarks/results``.
    """
    path = RESULTS / name
    rows: list[Row] = json.loads(path.read_text()) if path.exists() else []
    return rows


def number(value: float | None, form: str) -> str:
    """Return a number formatted for a table; empty if it was not measured."""
    return "" if value is None else format(value, form)
