"""The table of ``benchmarks.targets`` in BENCHMARKS.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.lane import BASELINE, Row
from benchmarks.page import PAGE, as_table, number, put, read

NAME, FILE = "benchmarks.targets", "targets.json"
TITLES = (
    *("workload", "TP, link", "split", "Inductor", "domino", "Inductor, free", "speed-up"),
    *("of free", "of bound", "exposed of wire (hidden)", "compute", "peak", "error ratio"),
)


def cells_of(row: Row) -> list[str]:
    """Return a workload's row."""
    found = {variant["variant"]: variant for variant in row["variants"]}
    alone, ours, free = found["inductor"], found["domino"], found["free"]
    what = "" if row["training"] else ", forward"
    wire = f"{number(ours['exposed_ms'], '.2f')} of {number(ours['wire_ms'], '.2f')}"
    return [
        f"{row['model']}, {row['batch']} x {row['seq']}{what}",
        f"{row['tp']}, {row['link'].partition('@')[0]}",
        split(row["batch"], ours),
        *(_step(variant) for variant in (alone, ours)),
        number(free["step_ms"], ".2f"),
        number(ours["speedup"], ".3f"),
        number(ours["fraction_of_free"], ".2f"),
        number(ours["fraction_of_bound"], ".2f"),
        f"{wire} ({number(ours['hidden_fraction'], '.0%')})",
        number(ours["inflation"], ".2f"),
        number((ours["peak_mib"] or 0) / (alone["peak_mib"] or 1) or None, ".2f"),
        _gradients(ours),
    ]


def split(batch: int, ours: dict[str, Any]) -> str:
    """Return what was cut, and into which pieces."""
    parts = []
    if ours["slices"] > 1:
        least, more = divmod(batch, ours["slices"])
        sizes = [least + (index < more) for index in range(ours["slices"])]
        parts.append(f"rows {'+'.join(map(str, sizes))}" if least else f"{ours['slices']} slices")
    if ours["columns"] > 1:
        parts.append(f"{ours['columns']} columns")
    return ", ".join(parts) or str(ours["status"])


def _step(variant: dict[str, Any]) -> str:
    low, high = variant["spread_ms"]
    return f"{variant['step_ms']:.2f} [{low:.2f}, {high:.2f}]"


def _gradients(ours: dict[str, Any]) -> str:
    ratio = number(ours.get("grad_error_ratio"), ".3f")
    return f"{ratio} **fails**" if ours.get("grad_passes") is False else ratio


def section(rows: Sequence[Row]) -> str:
    """Return what stands in BENCHMARKS.md: the rows of this checkout that did not fail."""
    good = [row for row in rows if not row.get("error") and row["number"] < BASELINE]
    return as_table(TITLES, [cells_of(row) for row in good])


def rendered(page: str) -> str:
    """Return the page with the table of the published results."""
    return put(page, NAME, section(read(FILE)))


def publish() -> None:
    """Write the table in BENCHMARKS.md."""
    PAGE.write_text(rendered(PAGE.read_text()))
