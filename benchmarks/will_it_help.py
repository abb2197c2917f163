"""Write the table *Will this help me?* of the README from the published results.

Usage: ``python -m benchmarks.will_it_help`` after a result in ``benchmarks/results`` has changed.
Nothing is measured. Jobs of one kind share a row, which gives the least and the most over them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.lane import BASELINE, Row
from benchmarks.page import ROOT, as_table, put, read
from domino_compile.ratio import times_text

NAME = "benchmarks.will_it_help"
README = ROOT / "README.md"
TITLES = (
    *("What you run", "Ranks that share a layer, link", "Tokens of a step"),
    *("Step lost to communication", "Speed-up", "Memory"),
)
#: A speed-up below this is not worth a change of anybody's program.
NOT_WORTH = 1.05
LINKS = {
    "h200-nvlink-8": "NVLink",
    "h100-ib-2x8-model": "NVLink and InfiniBand, 2 machines",
    "h100-ib-4x8-model": "NVLink and InfiniBand, 4 machines",
    "h100-2x8-gcp-a3mega": "a slower cloud network, 2 machines",
    "NCCL": "NVLink",
}
ALL_REDUCE, SEQUENCE = "all-reduce", "sequence parallel"


@dataclass(frozen=True)
class Job:
    """One measured job.

    Attributes:
        kind: what runs, in words; jobs of one kind share a row.
        ranks: the number of ranks that share a layer.
        link: the name of the link table, or NCCL.
        emulated: whether the link was emulated.
        tokens: the tokens of a step.
        before_ms: the step with Inductor alone.
        after_ms: the step with domino.
        free_ms: the step of Inductor with communication that takes no time.
        memory: the peak memory over Inductor's.
    """

    kind: str
    ranks: int
    link: str
    emulated: bool
    tokens: int
    before_ms: float
    after_ms: float
    free_ms: float
    memory: float

    @property
    def speedup(self) -> float:
        """How many times as fast the step is."""
        return self.before_ms / self.after_ms

    @property
    def share(self) -> float:
        """The share of a step that goes away if communication takes no time."""
        return max(0.0, 1 - self.free_ms / self.before_ms)

    @property
    def row(self) -> tuple[bool, str, str]:
        """What jobs in one row of the table have in common."""
        return self.emulated, self.kind, f"{self.ranks}, {LINKS[self.link]}"


def kind_of(row: Row) -> str:
    """Return what a job runs, in words."""
    words = ["training" if row["training"] else "prefill"]
    words.append(SEQUENCE if row["style"] in ("sp", "megatron-sp") else ALL_REDUCE)
    if row.get("dtype", "").startswith("fp8"):
        words.append("float8")
    if row["training"] and row.get("ac", "none") != "none":
        words.append("checkpointed")
    return ", ".join(words)


def emulated_jobs() -> list[Job]:
    """Return the jobs of ``benchmarks.jobs``, without those whose gradients do not pass."""
    return _jobs_of([row for row in read("jobs.json") if row.get("number", 0) < BASELINE])


def _jobs_of(rows: Iterable[Row]) -> list[Job]:
    """Return the jobs of ``benchmarks.jobs`` or ``benchmarks.rivals``."""
    good = [row for row in rows if not row.get("error") and row["grad_passes"] is not False]
    return [
        Job(
            kind_of(row),
            row["tp"],
            row["link"].partition("@")[0],
            row["emulated"],
            row["batch"] * row["seq"],
            row["inductor_ms"],
            row["domino_ms"],
            row["free_ms"],
            row["peak_ratio"],
        )
        for row in good
    ]


def emulated_networks() -> list[Job]:
    """Return the workloads of ``benchmarks.targets`` that span machines."""
    good = [row for row in read("targets.json") if not row.get("error")]
    return [_job_of(row) for row in good if row["number"] < BASELINE and row["tp"] > 8]


def real_jobs() -> list[Job]:
    """Return the jobs of ``benchmarks.rivals``, and the last run of ``benchmarks.multi_gpu``.

    Of the latter only what ran with NCCL's own settings and CUDA graphs.
    """
    rows = read("nccl-2.json")
    last = max(row["run"] for row in rows)
    return _jobs_of(read("nccl-jobs-2.json")) + [
        _job_of(row["measured"])
        for row in rows
        if row["run"] == last and row["nccl_max_ctas"] is None and row["measured"]["cuda_graphs"]
    ]


def _job_of(row: Row) -> Job:
    found: dict[str, Any] = {variant["variant"]: variant for variant in row["variants"]}
    alone, ours, free = found["inductor"], found["domino"], found["free"]
    return Job(
        kind_of(row),
        row["tp"],
        row["link"].partition("@")[0],
        row["emulated"],
        row["batch"] * row["seq"],
        alone["step_ms"],
        ours["step_ms"],
        free["step_ms"],
        ours["peak_mib"] / alone["peak_mib"],
    )


def measured_jobs() -> list[Job]:
    """Return all jobs of the table."""
    return [*real_jobs(), *emulated_jobs(), *emulated_networks()]


def section() -> str:
    """Return what stands in the README."""
    jobs = measured_jobs()
    return f"{as_table(TITLES, rows(jobs))}\n\n{sentences(jobs)}"


def rows(jobs: Sequence[Job]) -> list[list[str]]:
    """Return the rows of the table: real links first, then the largest gains."""
    kinds: dict[tuple[bool, str, str], list[Job]] = {}
    for job in jobs:
        kinds.setdefault(job.row, []).append(job)
    ordered = sorted(kinds.items(), key=lambda entry: (entry[0][0], -best(entry[1]).speedup))
    return [_cells(members) for _, members in ordered]


def _cells(members: Sequence[Job]) -> list[str]:
    emulated, kind, where = members[0].row
    top = best(members)
    example = times_text(top.before_ms, top.after_ms)
    return [
        kind,
        f"{where}{'' if emulated else ' (**real**)'}",
        span(members, lambda job: job.tokens, "{:,}"),
        span(members, lambda job: job.share, "{:.0%}"),
        f"{span(members, lambda job: job.speedup, '{:.2f}x')} ({example})",
        span(members, lambda job: job.memory, "{:.2f}x"),
    ]


def best(jobs: Iterable[Job]) -> Job:
    """Return the job that gains most."""
    return max(jobs, key=lambda job: job.speedup)


def span(jobs: Sequence[Job], value: Callable[[Job], float], form: str) -> str:
    """Return the least and the most of a value, or one number if they look the same."""
    found = [form.format(number) for number in (min(map(value, jobs)), max(map(value, jobs)))]
    return found[0] if found[0] == found[1] else " to ".join(found)


def sentences(jobs: Sequence[Job]) -> str:
    """Return where it does not pay, and what the grid says about the default."""
    small = [job for job in jobs if job.speedup < NOT_WORTH]
    real = [job for job in jobs if not job.emulated]
    low = sum(not job.emulated for job in small)
    grid = [row for row in read("grid.json") if not row.get("error")]
    least = min(row["inductor_ms"] / row["domino_ms"] for row in grid)
    lost = max(job.share for job in real)
    return (
        f"**Where it does not pay:** {len(small)} of these {len(jobs)} jobs gain less than "
        f"{NOT_WORTH - 1:.0%}, among them {low} of the {len(real)} on a real link: two ranks on "
        f"NVLink lose only up to {lost:.0%} of a step to communication. Little is gained as well "
        "where the wire is slower than all compute. The default has not been slower than Inductor "
        f"in any of {len(grid)} further configurations on emulated links (the least: {least:.3f}x)."
    )


def rendered(page: str) -> str:
    """Return the README with the table in its place."""
    return put(page, NAME, section())


def main() -> None:
    """Write the README."""
    argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0]).parse_args()
    README.write_text(rendered(README.read_text()))


if __name__ == "__main__":
    main()
