"""A process of ``benchmarks.jobs``: it compiles a job, waits for its turn, measures and judges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.job_cells import JobCell
from benchmarks.lane import BASELINE, Row, Settings
from benchmarks.lane_worker import CellBench, live, planned, rounded
from domino_compile.report import CompileReport
from domino_compile.tools.bench.result import BenchResult, VariantResult
from domino_compile.tools.bench.variants import parse_variants

#: The field of each rival's time in a row.
RIVAL_FIELDS = {
    "inductor-async-tp": "async_tp_ms",
    "inductor-overlap": "overlap_ms",
    "inductor-simple-overlap": "simple_overlap_ms",
    "domino-measured": "measured_ms",
    "domino-wire": "copy_engines_ms",
}
#: Steps of a variant in a round; fewer for steps longer than this many milliseconds.
STEPS, LONG_MS = 3, 60.0
#: The host is surely ahead of the device if it issues a step in this share of the step's time. If
#: not, the device pauses this many times longer than the host needs to get ahead.
HIDDEN, LEAD = 0.6, 1.5
#: The number of steps of each variant whose kernels are traced.
TRACED = 2


class JobBench(CellBench):
    """A bench that runs as many rounds as fit in its time.

    Attributes:
        timed_s: The approximate time of the timed rounds.
        fewest: The fewest rounds.
        most: The most rounds.
    """

    timed_s, fewest, most = 3.0, 6, 20

    def settle(self, most_rounds: int) -> None:
        """Choose the numbers of rounds and steps by how long a step takes."""
        self.plan = replace(self.plan, steps=1)
        for runner in self.runners:
            runner.decide()
        if self.on_gpu:
            for runner in self.runners:
                runner.result.host_ms = self._host_ms(runner)
        times = self.world.agreed([self._timed(runner) for runner in self.runners])
        steps = 1 if max(times) > LONG_MS else STEPS
        hosts = self.world.agreed([runner.result.host_ms or 0.0 for runner in self.runners])
        behind = max(0.0, *(h - HIDDEN * ms for h, ms in zip(hosts, times, strict=True)))
        self.pause_ms = LEAD * (steps + 1) * behind
        round_s = (sum(times) * (steps + 1) + self.pause_ms * len(times)) / 1e3
        rounds = min(self.most, most_rounds, max(self.fewest, int(self.timed_s / round_s)))
        self.plan = replace(self.plan, rounds=rounds, steps=steps, traced=TRACED)


def work(
    cell: JobCell, settings: Settings, gpu: str, pipe: Connection, variants: str, rounds: int
) -> None:
    """Run the whole life of the process.

    Args:
        cell: the job.
        settings: the settings of all jobs; the plans and a kernel trace of each variant go beside
            their logs.
        gpu: the GPU to use, as in ``CUDA_VISIBLE_DEVICES``; empty on the CPU.
        pipe: the pipe to the process that started this one.
        variants: the variants, as in ``domino bench``.
        rounds: the most rounds to measure.
    """
    measure = partial(measured, cell, settings, rounds)
    live(cell, settings, gpu, pipe, parse_variants(variants), measure, JobBench)


def measured(
    cell: JobCell, settings: Settings, rounds: int, bench: CellBench, result: BenchResult
) -> Row:
    """Measure a compiled job, and return its row."""
    assert isinstance(bench, JobBench)
    bench.settle(rounds)
    bench.plan = replace(bench.plan, traces=settings.logs / str(cell.number))
    result.rounds, result.steps = bench.plan.rounds, bench.plan.steps
    bench.measure(result, bench.runners)
    ours = next(runner for runner in bench.runners if runner.variant.label == "domino")
    for report in ours.reports:
        plan = settings.logs / str(cell.number) / f"plan-{report.graph}.json"
        plan.write_text(report.to_json())
    return row_of(cell, result, ours.reports)


def row_of(cell: JobCell, result: BenchResult, reports: list[CompileReport]) -> Row:
    """Return a job's row in ``benchmarks/results/jobs.json``."""
    found = {variant.variant: variant for variant in result.variants}
    alone, ours = found["inductor"], found["domino"]
    free = found.get("free", VariantResult("free"))
    row = asdict(cell) | {
        "version": "baseline" if cell.number >= BASELINE else "",
        "emulated": result.emulated,
        "link": result.link,
        "inductor_ms": alone.step_ms,
        "domino_ms": ours.step_ms,
        "free_ms": free.step_ms,
        "speedup": ours.speedup,
        "of_free": ours.fraction_of_free,
        "wire_ms": ours.wire_ms,
        "exposed_ms": ours.exposed_ms,
        "peak_ratio": _ratio(ours.peak_mib, alone.peak_mib),
        **_rivals(found),
        **_wire(result),
        **_judged(cell, result, reports),
        **_planned(cell, reports),
        "spread_ms": {name: variant.spread_ms for name, variant in found.items()},
        "peak_mib": {name: variant.peak_mib for name, variant in found.items()},
        "predicted_peak_mib": ours.predicted_peak_mib,
        "compute_ms": {name: variant.compute_ms for name, variant in found.items()},
        "parts_ms": {name: variant.parts_ms for name, variant in found.items()},
        "inductor_wire_ms": alone.wire_ms,
        "host_ms": {name: variant.host_ms for name, variant in found.items()},
        "notes": {name: variant.note for name, variant in found.items() if variant.note},
        "grad_error_float64": {name: variant.grad_error_float64 for name, variant in found.items()},
        "rounds": result.rounds,
        "steps": result.steps,
        "cuda_graphs": result.cuda_graphs,
        "device": result.device,
        "torch": result.torch,
    }
    done: Row = rounded(row)
    return done


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def _rivals(found: Mapping[str, VariantResult]) -> dict[str, Any]:
    """Return the times of Inductor's own ways to overlap, and of a plan that was measured."""
    times = {field: found[name].step_ms for name, field in RIVAL_FIELDS.items() if name in found}
    failed = {variant.variant: variant.error for variant in found.values() if variant.error}
    return times | ({"failed": failed} if failed else {})


def _wire(result: BenchResult) -> dict[str, Any]:
    """Return what carried the collectives on real links, and the thread blocks that it held."""
    if result.emulated:
        return {}
    return {"transport": result.link.lower(), "ctas": result.wire_ctas}


def _judged(cell: JobCell, result: BenchResult, reports: list[CompileReport]) -> dict[str, Any]:
    """Return the float64 verdict on the gradients, if one process can judge them.

    If ranks divide tokens and a sequence is cut, each rank holds a part of every slice instead of
    one part of the whole. On real ranks that changes nothing. Here other ranks' tokens are copies
    of this one's (``emulate.symmetric``), so holding other tokens means computing other numbers.
    """
    ours = next(v for v in result.variants if v.variant == "domino")
    splits = [c.split for report in reports for c in report.candidates if c.chosen]
    found = {
        "grad_error_ratio": ours.grad_error_ratio,
        "grad_worst": ours.grad_worst,
        "grad_passes": ours.grad_passes,
        "grad_note": "",
    }
    if result.emulated and cell.divides_tokens and any("tokens" in split for split in splits):
        found |= {"grad_error_ratio": None, "grad_passes": None, "grad_worst": ""}
        found["grad_note"] = "tokens change ranks: only real ranks can judge"
    return found


def _planned(cell: JobCell, reports: list[CompileReport]) -> dict[str, Any]:
    """Return the planned values of a whole step; a block's plan counts once for each block.

    Of separately compiled programs only those with collectives have a plan. If ranks divide tokens,
    the last of them is the end of the model, which holds the all-gather; the others are blocks: one
    for all, or one for the first and one for the others.
    """
    graphs = [report for report in reports if report.collectives]
    counted = graphs
    if cell.granularity == "block" and graphs:
        blocks = graphs[:-1] if cell.divides_tokens else graphs
        ends = graphs[len(blocks) :]
        first = blocks[: len(blocks) - 1]
        counted = [*first, *blocks[-1:] * (cell.layers - len(first)), *ends]
    found = planned(counted)
    chosen = {c.name: None for report in graphs for c in report.candidates if c.chosen}
    return {
        "split": "; ".join(chosen) or "unknown",
        "status": "; ".join(dict.fromkeys(report.status for report in graphs)),
        "reason": "; ".join(dict.fromkeys(report.reason for report in graphs if report.reason)),
        "predicted_ms": found["predicted_ms"],
        "predicted_inductor_ms": found["predicted_inductor_ms"],
        "predicted_exposed_ms": found["predicted_exposed_ms"],
    }
