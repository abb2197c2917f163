"""Summaries of the rows of ``benchmarks.grid``: a line for each, and a table of all."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
#: A step that takes this much longer than Inductor's counts as slower.
SLOWER = 1.02
#: The number of worst predictions to name.
NAMED = 5


def name(row: Row) -> str:
    """Return a configuration in words."""
    what = "training" if row["training"] else "forward"
    size = f"{row['batch']}x{row['seq']} tp{row['tp']}"
    return f"#{row['number']} {row['model']} {size} {row['link']} {row['style']} {what}"


def line(row: Row) -> str:
    """Return the line to print when a configuration is finished."""
    if row.get("error"):
        return f"{name(row)}: FAILED: {row['error']}"
    predicted = row["predicted_ms"]
    said = "no prediction" if predicted is None else f"predicted {predicted:.2f} ms"
    return (
        f"{name(row)}: {row['inductor_ms']:.2f} -> {row['domino_ms']:.2f} ms"
        f" (x{row['ratio']:.3f}; {row['choice']}; {said}) emulated"
    )


def is_cut(row: Row) -> bool:
    """Return whether rows or columns are cut."""
    return "rows" in row["split"] or "columns" in row["split"]


def error_of(row: Row, variant: str) -> float | None:
    """Return the prediction divided by the measured time, minus 1; ``None`` without prediction."""
    predicted = row["predicted_ms" if variant == "domino" else "predicted_inductor_ms"]
    return None if predicted is None else predicted / row[f"{variant}_ms"] - 1


def summary(rows: Sequence[Row]) -> list[str]:
    """Return the lines of the table and of the failures."""
    good = [row for row in rows if not row.get("error")]
    failed = [row for row in rows if row.get("error")]
    lines = [f"{len(rows)} configurations on emulated links, {len(failed)} failed"]
    if any(row.get("dry_run") for row in good):
        lines.append("dry run on the CPU: no time below means anything")
    if good:
        lines += _table(good)
        lines += [f"slower: {line(row)}" for row in _slower(good)]
        faults = [row for row in good if "internal fault" in row.get("reason", "")]
        lines += [f"left alone by a fault of ours: {name(r)}: {r['reason']}" for r in faults]
    return lines + [f"failed: {name(row)}: {row['error']}" for row in failed]


def _slower(rows: Sequence[Row]) -> list[Row]:
    return sorted((r for r in rows if r["ratio"] > SLOWER), key=lambda row: -row["ratio"])


def _table(rows: Sequence[Row]) -> list[str]:
    cut = [row for row in rows if is_cut(row)]
    same = [row for row in rows if row["split"] == "inductor"]
    ratios = sorted(rows, key=lambda row: -row["ratio"])
    pairs = [
        ("measured", str(len(rows))),
        ("cut", f"{len(cut)}, reordered {len(rows) - len(cut) - len(same)}, alone {len(same)}"),
        ("device", ", ".join(sorted({row["device"] for row in rows}))),
        ("slowest domino/inductor", f"{ratios[0]['ratio']:.3f}: {name(ratios[0])}"),
        ("fastest domino/inductor", f"{ratios[-1]['ratio']:.3f}: {name(ratios[-1])}"),
        (f"above {SLOWER}", str(len(_slower(rows)))),
        ("geometric-mean speed-up", f"{_speedup(rows):.3f}"),
        ("- of those that are cut", f"{_speedup(cut):.3f}" if cut else "none"),
        ("- of the same program twice", f"{_speedup(same):.3f}" if same else "none"),
    ]
    for variant in ("inductor", "domino"):
        pairs += _errors(rows, variant)
    wide = max(len(what) for what, _ in pairs)
    return [f"  {what:<{wide}}  {value}" for what, value in pairs]


def _speedup(rows: Sequence[Row]) -> float:
    return math.exp(-statistics.fmean(math.log(row["ratio"]) for row in rows))


def _errors(rows: Sequence[Row], variant: str) -> list[tuple[str, str]]:
    """Return how far off predictions are: size, direction, and the worst ones."""
    known = [(off, row) for row in rows if (off := error_of(row, variant)) is not None]
    if not known:
        return [(f"prediction of {variant}", "none")]
    known.sort(key=lambda entry: -abs(entry[0]))
    middle = statistics.median(abs(off) for off, _ in known)
    signed = statistics.median(off for off, _ in known)
    within = sum(abs(off) <= 0.1 for off, _ in known)
    said = f"median {middle:.1%} off ({signed:+.1%}), {within} of {len(known)} within 10%"
    worst = "; ".join(f"{off:+.1%} {name(row)}" for off, row in known[:NAMED])
    return [(f"prediction of {variant}", said), ("- the worst", worst)]
