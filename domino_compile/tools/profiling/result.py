"""The result of a profile, and its JSON (``docs/measurements.md``)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from domino_compile.report import CompileReport
from domino_compile.tools.profiling.account import Account
from domino_compile.tools.profiling.measured import RankMeasured, Together, together
from domino_compile.tools.profiling.recommend import Recommendation, recommend
from domino_compile.tools.timelines import Timeline

#: Raised whenever a key of ``ProfileResult.as_dict`` is renamed, removed or changes its meaning.
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ProfileResult:
    """The result of a profile. Times are milliseconds.

    Attributes:
        script: The command line, if a script was run.
        ranks: The number of ranks.
        device: The device that the steps ran on.
        link: The name of the emulated link; empty for a real link.
        step_ends: What ends a step.
        warmup: Number of steps before the timed ones.
        numbers: The numbers of all ranks together.
        account_from: Where the times of collectives come from.
        peak_of: The kind of memory whose peak is given.
        traced_ms: Time of a step under the profiler, for comparison with the timed steps.
        recommendation: What overlap could gain.
        timelines: One timeline of a step for each rank.
        plans: What the planner would do with the script's graphs.
        notes: Anything else worth knowing.
    """

    script: str
    ranks: int
    device: str
    link: str
    step_ends: str
    warmup: int
    numbers: Together
    account_from: str
    peak_of: str
    traced_ms: float | None
    recommendation: Recommendation
    timelines: tuple[Timeline, ...] = ()
    notes: tuple[str, ...] = field(default=())
    plans: tuple[CompileReport, ...] = ()

    @property
    def emulated(self) -> bool:
        """Return whether the link is emulated."""
        return bool(self.link)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data, without the timelines."""
        advice = asdict(self.recommendation)
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "profile",
            "script": self.script,
            "ranks": self.ranks,
            "device": self.device,
            "link": self.link or "real",
            "emulated": self.emulated,
            "step_ends": self.step_ends,
            "warmup": self.warmup,
            "steps": len(self.numbers.step_ms),
            **numbers_as_dict(self.numbers),
            "account_from": self.account_from,
            "peak_of": self.peak_of,
            "traced_step_ms": _rounded(self.traced_ms),
            "recommendation": {key: _rounded(value) for key, value in advice.items()},
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """Return it as indented JSON."""
        return json.dumps(self.as_dict(), indent=1) + "\n"

    def __str__(self) -> str:
        low, high = self.numbers.quartiles_ms
        account = self.numbers.account
        link = f"emulated link {self.link}" if self.link else "real link"
        lines = [
            f"step {self.numbers.median_ms:.2f} ms (middle half {low:.2f} to {high:.2f}; "
            f"{self.ranks} ranks, {self.device}, {link})",
            f"computing {self.numbers.utilisation:.0%} of the step; on the wire "
            f"{account.wire_ms:.2f} ms, exposed {account.exposed_ms:.2f} ms",
            self.recommendation.text,
            *self.notes,
        ]
        return "\n".join(lines)


def numbers_as_dict(numbers: Together) -> dict[str, Any]:
    """Return the numbers of a run, under the names that all our JSON has for them."""
    low, high = numbers.quartiles_ms
    account = numbers.account
    return {
        "step_ms": _rounded(numbers.median_ms),
        "quartiles_ms": [_rounded(low), _rounded(high)],
        "total_ms": _rounded(sum(numbers.step_ms)),
        "all_step_ms": [_rounded(ms) for ms in numbers.step_ms],
        "utilisation": _rounded(numbers.utilisation),
        "account_rank": numbers.account_rank,
        **account_as_dict(account),
        "peak_mib": _rounded(numbers.peak_mib),
        "compile_s": _rounded(numbers.compile_s),
    }


def account_as_dict(account: Account) -> dict[str, Any]:
    """Return an account, under the names that all our JSON has for it."""
    return {
        "compute_ms": _rounded(account.compute_ms),
        "wire_ms": _rounded(account.wire_ms),
        "exposed_ms": _rounded(account.exposed_ms),
        "hidden_ms": _rounded(max(0.0, account.wire_ms - account.exposed_ms)),
        "late_ms": _rounded(account.late_ms),
        "rest_ms": _rounded(account.rest_ms),
        "collectives": account.collectives,
        "groups": {
            name: {
                "collectives": group.collectives,
                "wire_ms": _rounded(group.wire_ms),
                "exposed_ms": _rounded(group.exposed_ms),
                "hidden_ms": _rounded(group.hidden_ms),
            }
            for name, group in account.groups.items()
        },
    }


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def finite(value: Any) -> Any:
    """Return the data with null where a number is not finite: JSON has no other word for it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(member) for member in value]
    return value


def profile_result(
    ranks: Sequence[RankMeasured], script: str = "", notes: Sequence[str] = ()
) -> ProfileResult:
    """Return the result of all ranks; each has timed a step and has an account."""
    first = min(ranks, key=lambda rank: rank.rank)
    numbers = together(ranks)
    on_gpu = first.device != "cpu"
    already = any(report.schedules for report in first.reports)
    slower = [max(rank.traced_ms) for rank in ranks if rank.traced_ms]
    return ProfileResult(
        script,
        first.ranks,
        first.device,
        first.link,
        first.step_ends,
        first.warmup,
        numbers,
        first.account_from,
        first.peak_of,
        max(slower, default=None),
        recommend(
            numbers.median_ms, numbers.account, "gpu" if on_gpu else "cpu", already, first.plans
        ),
        tuple(rank.timeline for rank in ranks if rank.timeline is not None),
        tuple(notes),
        tuple(first.plans),
    )
