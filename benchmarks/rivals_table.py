"""The table of ``benchmarks.rivals``, in the terminal and in BENCHMARKS.md."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.jobs_table import gradients, name_of, prediction, what_runs
from benchmarks.lane import Row
from benchmarks.page import PAGE, RESULTS, as_table, number, put, read

NAME = "benchmarks.rivals"
#: The fields of the times of Inductor's own ways to overlap, and their titles.
RIVALS = {
    "overlap_ms": "its overlap scheduling",
    "simple_overlap_ms": "its simple overlap",
    "async_tp_ms": "asynchronous TP",
}
TITLES = (
    *("job", "style, TP", "batch x tokens", "AC", "compiled", "split", "Inductor ms"),
    *(f"{title} ms" for title in RIVALS.values()),
    *("domino ms", "measured ms", "copy engines ms", "speed-up (goal)", "of the best", "of free"),
    *("exposed of wire, ms", "compute", "peak", "error ratio", "predicted"),
)
NOTHING = "No results yet: `python -m benchmarks.rivals` on a machine with several GPUs."


def file_of(ranks: int) -> str:
    """Return the name of the file of results."""
    return f"nccl-jobs-{ranks}.json"


def best_ms(row: Row) -> float:
    """Return the time of the fastest of Inductor and its own ways to overlap."""
    times = [row["inductor_ms"], *(row.get(field) for field in RIVALS)]
    return min(time for time in times if time)


def cells_of(row: Row) -> list[str]:
    """Return a job's row of the table."""
    compute = row["compute_ms"]
    free = compute.get("free") or compute.get("inductor")
    inflated = compute["domino"] / free if free and compute.get("domino") else None
    goal = f" ({row['faster']:.2f})" if row["faster"] else ""
    return [
        *what_runs(row),
        number(row["inductor_ms"], ".2f"),
        *(number(row.get(field), ".2f") for field in RIVALS),
        number(row["domino_ms"], ".2f"),
        number(row.get("measured_ms"), ".2f"),
        number(row.get("copy_engines_ms"), ".2f"),
        number(row["speedup"], ".3f") + goal,
        number(best_ms(row) / row["domino_ms"], ".3f"),
        number(row["of_free"], ".2f"),
        _exposed(row),
        number(inflated, ".2f"),
        number(row["peak_ratio"], ".2f"),
        gradients(row),
        prediction(row),
    ]


def _exposed(row: Row) -> str:
    exposed, wire = row["exposed_ms"], row["wire_ms"]
    return "" if wire is None else f"{number(exposed, '.2f')} of {wire:.2f}"


def line(row: Row) -> str:
    """Return the line to print when a job is finished."""
    if row.get("error"):
        return f"#{row['number']} {name_of(row)}: FAILED: {row['error']}"
    pairs = zip(TITLES, cells_of(row), strict=True)
    text = f"#{row['number']} " + "; ".join(f"{title} {cell}" for title, cell in pairs if cell)
    failed = [f"{name} failed: {why}" for name, why in row.get("failed", {}).items()]
    notes = [f"{name}: {note}" for name, note in row.get("notes", {}).items()]
    return "; ".join([text, *failed, *notes])


def markdown(rows: Sequence[Row]) -> str:
    """Return the table of all jobs without empty columns, with failures below it."""
    good = [row for row in rows if not row.get("error")]
    if not good:
        return "\n".join([NOTHING, *(f"* {line(row)}" for row in rows)])
    made = [cells_of(row) for row in good]
    kept = [at for at in range(len(TITLES)) if any(cells[at] for cells in made)]
    table = as_table([TITLES[at] for at in kept], [[cells[at] for at in kept] for cells in made])
    failed = [f"* {line(row)}" for row in rows if row.get("error")]
    return "\n\n".join([table, *(["\n".join(failed)] if failed else [])])


def section(rows: Sequence[Row]) -> str:
    """Return the section of BENCHMARKS.md: the rows, and where they were measured."""
    devices = sorted({row["device"] for row in rows if "device" in row})
    versions = sorted({row["torch"] for row in rows if "torch" in row})
    wires = sorted({row["transport"] for row in rows if "transport" in row})
    named = [", ".join(part) for part in (devices, [f"torch {v}" for v in versions], wires) if part]
    where = f"{'; '.join(named)}.\n\n" if devices else ""
    return where + markdown(rows)


def rendered(page: str) -> str:
    """Return the page with the section of each file of results in its place."""
    found = sorted(RESULTS.glob(file_of(0).replace("0", "*")))
    sections = [section(read(path.name)) for path in found] or [section([])]
    return put(page, NAME, "\n\n".join(sections))


def publish() -> None:
    """Write the table in BENCHMARKS.md from the published results."""
    PAGE.write_text(rendered(PAGE.read_text()))
