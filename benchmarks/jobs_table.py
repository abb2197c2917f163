"""The table of ``benchmarks.jobs``, in the terminal and in BENCHMARKS.md."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.lane import BASELINE, Row
from benchmarks.page import PAGE, as_table, number, put, read

NAME, FILE = "benchmarks.jobs", "jobs.json"
TITLES = (
    *("job", "style, TP", "batch x tokens", "AC", "compiled", "split", "Inductor ms"),
    *("domino ms", "speed-up", "of free (goal)", "exposed of wire, ms", "peak", "error ratio"),
    "predicted",
)
NOTHING = "No results yet: `python -m benchmarks.jobs` on a machine with a GPU measures them."


def cells_of(row: Row) -> list[str]:
    """Return a job's row of the table."""
    return [
        *what_runs(row),
        number(row["inductor_ms"], ".2f"),
        number(row["domino_ms"], ".2f"),
        number(row["speedup"], ".3f"),
        f"{number(row['of_free'], '.2f')} ({row['to_reach']:.2f})",
        f"{number(row['exposed_ms'], '.2f')} of {number(row['wire_ms'], '.2f')}",
        number(row["peak_ratio"], ".2f"),
        gradients(row),
        prediction(row),
    ]


def what_runs(row: Row) -> list[str]:
    """Return the cells that say what a job is and how it was treated."""
    return [
        name_of(row),
        f"{row['style']}, {row['tp']}",
        f"{row['batch']} x {row['seq']}",
        row["ac"],
        row["granularity"],
        row["split"],
    ]


def name_of(row: Row) -> str:
    """Return the name of a job and its model."""
    what = "" if row["training"] else ", forward"
    what += f", {row['dtype']}" if row["dtype"].startswith("fp8") else ""
    what += ", baseline" if row["number"] >= BASELINE else ""
    return f"{row['job']} ({row['model']}{what})"


def gradients(row: Row) -> str:
    """Return the ratio of gradient errors, and whether it fails."""
    ratio = number(row["grad_error_ratio"], ".3f")
    return f"{ratio} **fails**" if row["grad_passes"] is False else ratio


def prediction(row: Row) -> str:
    """Return how far the predicted step is off."""
    predicted = row["predicted_ms"]
    return number(None if predicted is None else predicted / row["domino_ms"] - 1, "+.1%")


def line(row: Row) -> str:
    """Return the line to print when a job is finished."""
    if row.get("error"):
        return f"#{row['number']} {name_of(row)}: FAILED: {row['error']}"
    pairs = zip(TITLES, cells_of(row), strict=True)
    return f"#{row['number']} " + "; ".join(f"{title} {cell}" for title, cell in pairs)


def markdown(rows: Sequence[Row]) -> str:
    """Return the table of all jobs, with failed jobs below it."""
    good = [row for row in rows if not row.get("error")]
    if not rows:
        return NOTHING
    table = as_table(TITLES, [cells_of(row) for row in good])
    failed = [f"* {line(row)}" for row in rows if row.get("error")]
    return "\n\n".join([table, *(["\n".join(failed)] if failed else [])])


def section(rows: Sequence[Row]) -> str:
    """Return the section of BENCHMARKS.md: this checkout's rows, and where they were measured."""
    ours = [row for row in rows if row["number"] < BASELINE]
    devices = sorted({row["device"] for row in ours if "device" in row})
    versions = sorted({row["torch"] for row in ours if "torch" in row})
    where = f"{', '.join(devices)}, torch {', '.join(versions)}.\n\n" if devices else ""
    return where + markdown(ours)


def rendered(page: str, rows: Sequence[Row]) -> str:
    """Return the page with the section in its place."""
    return put(page, NAME, section(rows))


def publish() -> None:
    """Write the table in BENCHMARKS.md from the published results."""
    PAGE.write_text(rendered(PAGE.read_text(), read(FILE)))
