"""The result of a proof of concept, and its JSON (``docs/measurements.md``)."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from domino_compile.report import CompileReport
from domino_compile.tools.poc.quality import Curve, Quality, compare
from domino_compile.tools.poc.verdict import Times, Verdict, decide
from domino_compile.tools.profiling.account import typical
from domino_compile.tools.profiling.measured import RankMeasured, Together, together
from domino_compile.tools.profiling.planned import named_by_plan
from domino_compile.tools.profiling.result import finite, numbers_as_dict
from domino_compile.tools.timelines import Timeline

#: Raised whenever a key of ``PocResult.as_dict`` is renamed, removed or changes its meaning.
SCHEMA_VERSION = 1
BASELINE, DOMINO = "inductor", "domino"
#: What is compared, by the field of a rank that holds its curve.
QUANTITIES = {"loss": "losses", "grad_norm": "grad_norms", "output": "outputs"}


@dataclass(frozen=True)
class PocRun:
    """One run of one variant: the measurements of each rank, in the order of ranks."""

    variant: str
    round: int
    ranks: tuple[RankMeasured, ...]

    def curves(self, quantity: str) -> list[Curve]:
        """Return a quantity on every rank."""
        return [getattr(rank, QUANTITIES[quantity]) for rank in self.ranks]


@dataclass(frozen=True)
class Variant:
    """All runs of one variant together.

    Attributes:
        numbers: The numbers of all rounds' steps.
        round_ms: Median step of every round.
        losses: Losses of the first run, mean over the ranks, warm-up included; None: no loss.
        grad_norms: Gradient norms of the first run on rank 0.
    """

    numbers: Together
    round_ms: tuple[float, ...]
    losses: tuple[float | None, ...]
    grad_norms: tuple[float | None, ...]

    @property
    def times(self) -> Times:
        """Return what the verdict needs."""
        exposed = self.numbers.account.exposed_ms
        return Times(self.numbers.median_ms, self.round_ms, exposed)


@dataclass(frozen=True)
class PocResult:
    """A proof of concept.

    Attributes:
        script: The command line.
        settings: The request as plain data.
        first: Rank 0 of the first run, for everything that all runs share.
        variants: The variants by name.
        qualities: The comparisons of training.
        verdict: The verdict.
        timelines: One timeline per rank, by variant.
        reports: The reports of domino's graphs on rank 0.
        notes: Anything else worth knowing.
    """

    script: str
    settings: Mapping[str, Any]
    first: RankMeasured
    variants: Mapping[str, Variant]
    qualities: tuple[Quality, ...]
    verdict: Verdict
    timelines: Mapping[str, tuple[Timeline, ...]] = field(default_factory=dict)
    reports: tuple[CompileReport, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data, without the timelines; null where a number is not finite."""
        first, baseline = self.first, self.variants[BASELINE].numbers
        ratio = self.variants[DOMINO].numbers.median_ms / baseline.median_ms
        data = {
            "schema_version": SCHEMA_VERSION,
            "kind": "poc",
            "script": self.script,
            **self.settings,
            "ranks": first.ranks,
            "device": first.device,
            "link": first.link or "real",
            "emulated": bool(first.link),
            "step_ends": first.step_ends,
            "account_from": first.account_from,
            "peak_of": first.peak_of,
            "step_ratio": round(ratio, 4),
            "speedup": round(self.verdict.speedup, 4),
            "variants": {name: _as_dict(variant) for name, variant in self.variants.items()},
            "quality": {quality.name: asdict(quality) for quality in self.qualities},
            "graphs": [report.summary() for report in self.reports],
            "verdict": asdict(self.verdict),
            "notes": list(self.notes),
        }
        return {key: finite(value) for key, value in data.items()}

    def to_json(self) -> str:
        """Return it as indented JSON."""
        return json.dumps(self.as_dict(), indent=1) + "\n"


def _as_dict(variant: Variant) -> dict[str, Any]:
    return {
        **numbers_as_dict(variant.numbers),
        "round_step_ms": [round(ms, 4) for ms in variant.round_ms],
        "losses": list(variant.losses),
        "grad_norms": list(variant.grad_norms),
    }


def poc_result(
    runs: Sequence[PocRun], script: str, settings: Mapping[str, Any], notes: Sequence[str] = ()
) -> PocResult:
    """Return the result of all runs; every rank of each has timed a step and has an account."""
    by_name = {name: [run for run in runs if run.variant == name] for name in (BASELINE, DOMINO)}
    variants = {name: _variant(of_name) for name, of_name in by_name.items()}
    first, planned = by_name[BASELINE][0], by_name[DOMINO][0]
    precision = max(rank.precision for run in runs for rank in run.ranks)
    comparisons = [
        compare(
            quantity,
            [run.curves(quantity) for run in by_name[BASELINE]],
            [run.curves(quantity) for run in by_name[DOMINO]],
            precision,
        )
        for quantity in QUANTITIES
    ]
    qualities = tuple(quality for quality in comparisons if quality is not None)
    verdict = decide(
        variants[BASELINE].times, variants[DOMINO].times, qualities, first.ranks[0].link
    )
    return PocResult(
        script,
        settings,
        first.ranks[0],
        variants,
        qualities,
        verdict,
        {
            BASELINE: tuple(
                named_by_plan(rank.timeline, plan.reports, uncut=True)
                for rank, plan in zip(first.ranks, planned.ranks, strict=True)
                if rank.timeline is not None
            ),
            DOMINO: tuple(r.timeline for r in planned.ranks if r.timeline is not None),
        },
        tuple(planned.ranks[0].reports),
        tuple(notes),
    )


def _variant(runs: Sequence[PocRun]) -> Variant:
    rounds = [together(run.ranks) for run in runs]
    peaks = [one.peak_mib for one in rounds if one.peak_mib is not None]
    numbers = Together(
        tuple(ms for one in rounds for ms in one.step_ms),
        statistics.fmean(one.utilisation for one in rounds),
        typical([one.account for one in rounds]),
        max(peaks, default=None),
        rounds[0].compile_s,  # later rounds may find compiled kernels
        rounds[0].account_rank,
    )
    first = runs[0].ranks
    return Variant(
        numbers,
        tuple(one.median_ms for one in rounds),
        tuple(_mean(step) for step in zip(*(rank.losses for rank in first), strict=False)),
        tuple(first[0].grad_norms),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
