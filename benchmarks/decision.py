"""Write what ``docs/decision.md`` says of measured jobs: a worked example, and two warnings.

Usage: ``python -m benchmarks.decision`` after a file of jobs in ``benchmarks/results`` has changed.
"""

from __future__ import annotations

import argparse
import re

from benchmarks.jobs_table import FILE
from benchmarks.lane import Row
from benchmarks.page import ROOT, as_table, put, read
from benchmarks.will_it_help import Job, measured_jobs, real_jobs, span
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
    step = row["inductor_ms"]
    share = 1 - row["free_ms"] / step
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
        f"With Inductor alone a step of {row['layers']} layers takes {row['inductor_ms']:.2f} ms. "
        f"If communication took no time (the row *free*), it would take {row['free_ms']:.2f} ms. "
        f"**S** is 1 - {row['free_ms']:.2f} / {row['inductor_ms']:.2f} = {share:.0%}."
    )


def _end(gains: dict[str, float]) -> str:
    measured, bound = hours(gains["measured"]), hours(gains["bound"])
    return (
        f"A job of 30 days on these GPUs ends {measured:.0f} hours earlier, which is "
        f"{measured / bound:.0%} of what perfect overlap would save. Multiply by the number of GPUs"
        " and the price of a GPU hour."
    )


def memory() -> str:
    """Return what overlap costs in memory."""
    jobs = measured_jobs()
    close = sum(0.95 <= job.memory <= 1.05 for job in jobs)
    return (
        f"* **Memory**: within 5 % of Inductor alone in {close} of {len(jobs)} measured jobs, "
        f"{span(jobs, _memory, '{:.2f}x')} over all of them "
        "([jobs](../BENCHMARKS.md#the-jobs-people-run))."
    )


def small_shares() -> str:
    """Return what two GPUs gained that have little to hide."""
    jobs = real_jobs()
    return (
        "* **S is small.** Two GPUs on NVLink lost "
        f"{span(jobs, lambda job: job.share, '{:.0%}')} of a step to communication. Steps became "
        f"{span(jobs, lambda job: job.speedup, '{:.2f}x')} as fast, and part of that came from "
        "better kernels, not from overlap ([real links](../BENCHMARKS.md#real-links))."
    )


def _memory(job: Job) -> float:
    return job.memory


def rendered(page: str) -> str:
    """Return the page with the example and the warnings in their places."""
    page = put(page, NAME, section(example()))
    page = put(page, f"{NAME} memory", memory())
    return put(page, f"{NAME} shares", small_shares())


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0]).parse_args()
    PAGE.write_text(rendered(PAGE.read_text()))


if __name__ == "__main__":
    main()
