"""Write the worked example of ``docs/decision.md`` from a measured job.

Usage: ``python -m benchmarks.decision`` after ``benchmarks/results/jobs.json`` has changed.
"""

from __future__ import annotations

import argparse
import re

from benchmarks.jobs_table import FILE
from benchmarks.lane import Row
from benchmarks.page import ROOT, as_table, put, read
from domino_compile.ratio import times_text

NAME = "benchmarks.decision"
PAGE = ROOT / "docs" / "decision.md"
#: Llama 3 8B as Hugging Face parallelizes it, on four ranks: neither the best job nor the worst.
JOB = {"job": "hf-8b", "tp": 4, "batch": 1, "seq": 8192, "ac": "none"}
#: A job of thirty days.
HOURS = 720


def example() -> Row:
    """Return the job's row."""
    (row,) = [row for row in read(FILE) if all(row[key] == value for key, value in JOB.items())]
    return row


def section(row: Row) -> str:
    """Return the example, worked through."""
    step, waiting = row["inductor_ms"], row["inductor_wire_ms"]
    share = waiting / step
    gains = {
        "bound": 1 / (1 - share),
        "expected": row["predicted_inductor_ms"] / row["predicted_ms"],
        "measured": row["speedup"],
    }
    sources = {
        "bound": f"1 / (1 - {share:.2f})",
        "expected": "predicted, as `domino explain` does it",
        "measured": times_text(step, row["domino_ms"]),
    }
    lines = [
        [f"**{name}**", f"{gain:.2f}x", sources[name], f"{hours(gain):.0f} of {HOURS}"]
        for name, gain in gains.items()
    ]
    table = as_table(("", "Speed-up", "How", "Hours saved"), lines)
    return f"{_introduction(row, share)}\n\n{table}\n\n{_end(gains)}"


def hours(gain: float) -> float:
    """Return the hours that a speed-up saves."""
    return HOURS * (1 - 1 / gain)


def _introduction(row: Row, share: float) -> str:
    style = f"--style {row['style']} --link {row['link'].partition('@')[0]}"
    size = f"--layers {row['layers']} --batch {row['batch']} --seq {row['seq']} --tp {row['tp']}"
    return (
        f"Llama 3 8B, {row['tp']} GPUs to each layer, {row['batch']} sequence of {row['seq']} "
        f"tokens, measured on one {row['device']} with an emulated link:\n\n"
        f"```\ndomino bench --model {row['model']} {size} {style}\n```\n\n"
        f"With Inductor alone a step of {row['layers']} layers takes {row['inductor_ms']:.2f} ms, "
        f"of which {row['inductor_wire_ms']:.2f} ms are spent waiting. **S** is "
        f"{row['inductor_wire_ms']:.2f} / {row['inductor_ms']:.2f} = {share:.0%}."
    )


def _end(gains: dict[str, float]) -> str:
    measured, bound = hours(gains["measured"]), hours(gains["bound"])
    return (
        f"A job of 30 days on these GPUs ends {measured:.0f} hours earlier, which is "
        f"{measured / bound:.0%} of what perfect overlap would save. Multiply by the number of GPUs"
        " and the price of a GPU hour."
    )


def rendered(page: str) -> str:
    """Return the page with the example in its place."""
    return put(page, NAME, section(example()))


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0]).parse_args()
    PAGE.write_text(rendered(PAGE.read_text()))


if __name__ == "__main__":
    main()
