"""The measurements of one rank as plain data, and those of all ranks together."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from domino_compile import emulate
from domino_compile.report import CompileReport
from domino_compile.tools.profiling.account import (
    Account,
    account_of_records,
    account_of_timeline,
    scaled,
    typical,
)
from domino_compile.tools.profiling.planned import named_by_plan
from domino_compile.tools.profiling.session import Session
from domino_compile.tools.profiling.trace import timeline_of
from domino_compile.tools.quartiles import middle_half
from domino_compile.tools.timelines import Timeline

#: Where the times of collectives come from.
FROM_RECORDS = "the waits of the emulated link, in the timed steps"
FROM_TRACE = "torch's profiler, in steps of their own"


@dataclass
class RankMeasured:
    """The measurements of one rank. Lists have one entry per step, over all phases.

    Attributes:
        rank: This rank.
        ranks: The number of ranks.
        device: The device as torch names it, or ``cpu``.
        link: Name of the emulated link table; empty for a real link.
        step_ends: What ends a step (``domino_compile.tools.scripts.steps``).
        warmup: Number of steps before the timed ones.
        step_ms: Times of the timed steps.
        traced_ms: Times of the steps under the profiler.
        losses: Mean of what the step differentiated; None if it differentiated nothing.
        grad_norms: Norm of this rank's gradients when the optimizer stepped; None if it did not.
        outputs: Mean magnitude of the results of inference graphs; None otherwise.
        account: How the time of a typical step is spent.
        account_from: The origin of the account.
        peak_mib: Peak memory.
        peak_of: The kind of memory.
        compile_s: Time from the first compile to the end of its step, less a usual step.
        precision: Relative rounding of the coarsest type that a graph computes in.
        timeline: The timeline of one traced step.
        reports: The reports of the graphs that this package compiled.
        plans: The plans of the graphs that Inductor compiled, if they were asked for.
    """

    rank: int = 0
    ranks: int = 1
    device: str = "cpu"
    link: str = ""
    step_ends: str = ""
    warmup: int = 0
    step_ms: list[float] = field(default_factory=list)
    traced_ms: list[float] = field(default_factory=list)
    losses: list[float | None] = field(default_factory=list)
    grad_norms: list[float | None] = field(default_factory=list)
    outputs: list[float | None] = field(default_factory=list)
    account: Account | None = None
    account_from: str = ""
    peak_mib: float | None = None
    peak_of: str = ""
    compile_s: float | None = None
    precision: float = 0.0
    timeline: Timeline | None = None
    reports: list[CompileReport] = field(default_factory=list)
    plans: list[CompileReport] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        plain = dict(vars(self).items())
        plain["account"] = None if self.account is None else asdict(self.account)
        plain["timeline"] = None if self.timeline is None else self.timeline.as_dict()
        for name in ("reports", "plans"):
            plain[name] = [report.as_dict() for report in getattr(self, name)]
        return plain

    @staticmethod
    def from_dict(data: dict[str, Any]) -> RankMeasured:
        """Undo ``as_dict``."""
        result = RankMeasured(**data)
        result.account = None if data["account"] is None else Account.from_dict(data["account"])
        line = data["timeline"]
        result.timeline = None if line is None else Timeline.from_dict(line)
        for name in ("reports", "plans"):
            setattr(result, name, [CompileReport.from_dict(report) for report in data[name]])
        return result


def measured(
    session: Session,
    title: str,
    rank: int,
    ranks: int,
    link: str,
    compiled: Sequence[CompileReport] = (),
    step_ends: str = "",
    plans: Sequence[CompileReport] = (),
) -> RankMeasured:
    """Return what a session measured, numbers fetched from the device.

    Args:
        session: A session whose steps have ended.
        title: The title of the timeline.
        rank: The rank of this process.
        ranks: The number of ranks.
        link: Name of the emulated link; empty: a real one.
        compiled: Reports of the graphs that this package compiled.
        step_ends: What ended a step.
        plans: Plans of the graphs that Inductor compiled.
    """
    result = RankMeasured(rank, ranks, link=link, step_ends=step_ends)
    result.device = torch.cuda.get_device_name() if session.on_gpu else "cpu"
    result.warmup, result.step_ms = session.phases.warmup, session.step_ms
    result.losses = [_mean(facts.losses) for facts in session.facts]
    result.grad_norms = [_number(facts.grad_norm) for facts in session.facts]
    result.outputs = [_mean(facts.output) for facts in session.facts]
    result.peak_mib, result.peak_of = session.peak_mib, session.peak_of
    result.compile_s = session.compile_s
    result.reports, result.plans = list(compiled), list(plans)
    _take_traces(result, session, title)
    if link and not session.on_gpu and session.step_ms:
        pairs = zip(session.records, session.step_ms, strict=False)
        result.account = typical([account_of_records(records, ms) for records, ms in pairs])
        result.account_from = FROM_RECORDS
    return result


def _take_traces(result: RankMeasured, session: Session, title: str) -> None:
    """Take the account and the timeline from the traced steps."""
    traces = session.traces[1:] or session.traces
    if not traces:
        return
    result.traced_ms = [trace.step_ms for trace in traces]
    lines = [
        timeline_of(trace, title, result.rank, bool(result.link), session.on_gpu)
        for trace in traces
    ]
    pairs = zip(lines, result.traced_ms, strict=True)
    result.account = typical([account_of_timeline(line, ms) for line, ms in pairs])
    result.account_from = FROM_TRACE
    ms = statistics.median(result.traced_ms)
    middle = min(range(len(lines)), key=lambda n: abs(result.traced_ms[n] - ms))
    compiled, uncut = (result.reports, False) if result.reports else (result.plans, True)
    result.timeline = named_by_plan(lines[middle], compiled, uncut)


def _mean(values: Sequence[torch.Tensor]) -> float | None:
    numbers = [float(value) for value in values]
    return statistics.fmean(numbers) if numbers else None


def _number(value: torch.Tensor | None) -> float | None:
    return None if value is None else float(value)


def emulated_link() -> str:
    """Return the table's name that the default group's collectives take their time from, if one."""
    if not dist.is_initialized() or emulate.BACKEND not in dist.get_backend_config():
        return ""
    table = emulate.settings.current().link
    return "free" if table is None else table.name


@dataclass(frozen=True)
class Together:
    """All ranks of one run. A step is as slow as its slowest rank; times in milliseconds.

    Attributes:
        step_ms: Time of each timed step on its slowest rank.
        utilisation: Share of a step in which something computes, as the mean over ranks.
        account: That of the slowest rank, so that its parts add up; traced steps are scaled to
            timed ones.
        account_rank: The number of the slowest rank.
        peak_mib: The largest peak memory of any rank.
        compile_s: Compile time of the slowest rank.
    """

    step_ms: tuple[float, ...]
    utilisation: float
    account: Account
    peak_mib: float | None
    compile_s: float | None
    account_rank: int = 0

    @property
    def median_ms(self) -> float:
        """Return the median of the step times."""
        return statistics.median(self.step_ms)

    @property
    def quartiles_ms(self) -> tuple[float, float]:
        """Return the lower and the upper quartile of the step times."""
        return middle_half(self.step_ms)


def together(ranks: Sequence[RankMeasured]) -> Together:
    """Combine the numbers of one run. All ranks must have timed a step and have an account."""
    known = [(rank.rank, timed) for rank in ranks if (timed := _as_timed(rank)) is not None]
    accounts = [account for _, account in known]
    slowest, account = max(known, key=lambda entry: (entry[1].step_ms, -entry[0]))
    parts = [min(1.0, a.compute_ms / a.step_ms) for a in accounts if a.step_ms]
    peaks = [rank.peak_mib for rank in ranks if rank.peak_mib is not None]
    compiles = [rank.compile_s for rank in ranks if rank.compile_s is not None]
    return Together(
        tuple(max(step) for step in zip(*(rank.step_ms for rank in ranks), strict=False)),
        statistics.fmean(parts) if parts else 0.0,
        account,
        max(peaks, default=None),
        max(compiles, default=None),
        slowest,
    )


def _as_timed(rank: RankMeasured) -> Account | None:
    """Return a rank's account; traced steps, which the profiler slows, as parts of a timed one."""
    account = rank.account
    if account is None or not rank.step_ms or not account.step_ms:
        return account
    return scaled(account, min(1.0, statistics.median(rank.step_ms) / account.step_ms))
