"""Fills in the report from the decision and the results of the passes. Nothing else does.

The report begins with the collectives as captured, is filled in once the joint graph is cut, and
gets a schedule for each graph that is ordered. It is what users see: it steers nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace

from torch import fx

from domino_compile import _compat
from domino_compile.analysis import CutPlan, NoCut, reasons
from domino_compile.analysis.found import Found
from domino_compile.analysis.propagate import Analysis
from domino_compile.analysis.reasons import Code, Reason
from domino_compile.cost import CostModel
from domino_compile.graph.collectives import Site, user_line
from domino_compile.graph.tags import origin_of
from domino_compile.passes.schedule import ScheduleResult
from domino_compile.pipeline.contract import Context
from domino_compile.pipeline.decision import Decision
from domino_compile.pipeline.order import COLUMNS, NORMALISE, PIN, PRODUCTS, TRANSPORT
from domino_compile.planner import Choice
from domino_compile.report import (
    Action,
    CandidateReport,
    CollectiveReport,
    CompileReport,
    Join,
    MeasuredReport,
    ScheduleReport,
)
from domino_compile.report.origin import module_of
from domino_compile.report.schedule import schedule
from domino_compile.verify.verifier import NotEqual

#: Returns the user's name of an input.
NameOf = Callable[[fx.Node], str]


def captured(report: CompileReport, collectives: Found) -> None:
    """Record the collectives of the captured graph, before anything is decided."""
    report.collectives = [
        _collective(site, _apart(site, collectives)) for site in collectives.sites
    ]


def predicted_for(report: CompileReport, cost: CostModel) -> None:
    """Record which device and link table the predictions use."""
    report.device, report.link = cost.rates.name, cost.link.name
    report.link_ranks = cost.link.ranks


def nothing_to_overlap(report: CompileReport, collectives: Found) -> None:
    """Record that no collective makes compute wait, so the graph is left to Inductor alone."""
    captured(report, collectives)
    _explain(
        report, reasons.not_tensor_parallel() if collectives.sites else reasons.no_collective()
    )


def left(report: CompileReport, why: Reason) -> None:
    """Record that the graph is left to Inductor alone for another reason."""
    report.status = "inductor"
    _explain(report, why)
    for entry in report.collectives:
        entry.action = "left alone"


def restarted(report: CompileReport) -> None:
    """Forget what was done, because the graph is compiled again."""
    vars(report).update(vars(CompileReport(report.graph, report.options, report.slower)))


def decided(report: CompileReport, decision: Decision, at: Context, name_of: NameOf) -> None:
    """Record what was done with the joint graph, and why nothing more was done.

    Args:
        report: The report of the compile.
        decision: What was to be done.
        at: What the passes did, and the collectives that are there now.
        name_of: A function that returns the user's name of an input.
    """
    assert at.found is not None
    columns = at.outcomes.of(COLUMNS)
    cuts = [decision.rows, *([] if columns is None else [columns.plan])]
    made = [plan for plan in cuts if isinstance(plan, CutPlan)]
    report.status = "sliced" if made else "reordered" if decision.reorder else "inductor"
    if not made:
        refused = [_because(plan, name_of) for plan in cuts if isinstance(plan, NoCut)]
        _explain(report, _together(refused).where(decision.possible.ways()))
    for plan in made:
        sizes = [str(size * plan.analysis.unit) for size in plan.chunks.sizes]
        if plan.columns:
            report.columns = sizes
        else:
            report.slices, report.axis = sizes, _axis(plan.analysis, name_of)
            report.tokens = plan.analysis.looks_back
        report.joins += _joins(plan.analysis)
    report.candidates = [] if decision.choice is None else _candidates(decision, decision.choice)
    merged = at.outcomes.of(NORMALISE)
    kept = merged is not None and (bool(made) or decision.reorder)
    gone = {launch.name for launch in merged.launches} if merged is not None and kept else set()
    cut = {origin_of(n) or n.name for plan in made for n in plan.analysis.sliced_collectives()}
    for entry in report.collectives:
        action, why = _fate(entry, decision, made, gone, cut)
        entry.action = action
        if why is not None:
            why = why.where(decision.possible.ways(entry.name))
            entry.code, entry.reason, entry.advice = why.code, why.text, why.advice


def scheduled(
    report: CompileReport, phase: str, ordered: ScheduleResult, at: Context
) -> ScheduleReport:
    """Record the schedule of one of the lowered graphs, and return it.

    Args:
        report: The report of the compile.
        phase: ``forward``, ``backward`` or ``inference``.
        ordered: The result of the pass ``schedule``.
        at: What the passes behind it did.
    """
    entry = schedule(phase, ordered)
    entry.step_peak_bytes = ordered.memory.peak_bytes + round(at.cost.rates.library_mib * 2**20)
    told = at.outcomes.of(PRODUCTS) or {}
    entry.configured = {name: part for name, part in told.items() if part}
    entry.pinned = at.outcomes.of(PIN) or 0
    carried = at.outcomes.of(TRANSPORT)
    entry.transport = carried.text() if carried is not None else ""
    report.schedules = [*(s for s in report.schedules if s.phase != phase), entry]
    return entry


def failed(report: CompileReport, phase: str, error: Exception) -> None:
    """Record that our passes failed at a stage and that its graph was restored."""
    unequal = isinstance(error, NotEqual)
    why = reasons.unequal(phase, str(error)) if unequal else reasons.fault(phase, error)
    _explain(report, why)
    report.schedules = [entry for entry in report.schedules if entry.phase != phase]
    if phase != "joint":
        return
    report.status = "inductor"
    report.axis, report.slices, report.columns, report.joins = [], [], [], []
    for entry in report.collectives:
        entry.action = "left alone"
        if entry.tensor_parallel:
            entry.code, entry.advice = why.code, why.advice
            entry.reason = why.text.split(": ")[0]  # the graph's reason has the rest


def not_established(report: CompileReport, phase: str, why: str) -> None:
    """Record that the order of a graph's emitted code was not established, so it has none."""
    _explain(report, reasons.not_established(phase, why))
    report.schedules = [entry for entry in report.schedules if entry.phase != phase]


def not_proved(report: CompileReport, phase: str, why: str) -> None:
    """Record that another rank has not proved its graph, so this one has no order either."""
    _explain(report, reasons.not_proved(phase, why))


def measured(report: CompileReport, measurement: MeasuredReport) -> None:
    """Record which program was measured as faster; the uncut one is Inductor alone."""
    report.measured = measurement
    if measurement.kept == "uncut":
        planned = " and ".join(report.cuts()) or report.status
        report.status = "inductor"
        _explain(report, reasons.measured_slower(planned))


def recalled(report: CompileReport, kept: CompileReport) -> None:
    """Copy the plan that was kept beside a cached program."""
    for item in fields(CompileReport):
        if item.name not in ("graph", "options"):
            setattr(report, item.name, getattr(kept, item.name))
    if not report.reason:
        _explain(report, reasons.cached())


def completed(report: CompileReport, kept: CompileReport) -> bool:
    """Copy the schedules of graphs that came from a cache; return whether there are any."""
    present = {schedule.phase for schedule in report.schedules}
    missing = [schedule for schedule in kept.schedules if schedule.phase not in present]
    report.schedules += missing
    return bool(missing)


# -- parts of it ---------------------------------------------------------------------------


def _explain(report: CompileReport, why: Reason) -> None:
    report.code, report.reason, report.advice = why.code, why.text, why.advice


def _apart(site: Site, collectives: Found) -> Reason | None:
    """Return why a collective is not tensor parallel; ``None`` if it is."""
    if site.launch in collectives.parallel:
        return None
    return (
        reasons.statistics() if site.launch in collectives.statistics else reasons.data_parallel()
    )


def _collective(site: Site, why: Reason | None) -> CollectiveReport:
    """Return the report of a collective before anything is decided."""
    return CollectiveReport(
        name=site.launch.name,
        kind=site.kind,
        group=site.group,
        ranks=_compat.group_size(site.group),
        bytes=site.payload,
        source=site.source,
        phase="backward" if site.backward else "forward",
        action="reordered" if why is None else "left alone",
        tensor_parallel=why is None,
        code="" if why is None else why.code,
        reason="" if why is None else why.text,
        module=module_of(site.launch),
    )


def _fate(
    entry: CollectiveReport,
    decision: Decision,
    made: list[CutPlan],
    gone: set[str],
    cut: set[str],
) -> tuple[Action, Reason | None]:
    """Return what was done with one collective, and why not more where that is its own.

    Args:
        entry: The collective as captured.
        decision: What was to be done with the graph.
        made: The cuts that were made.
        gone: The collectives that were merged with others, by name.
        cut: The collectives that were cut, by name in the captured graph.
    """
    if entry.name in gone:
        return "merged", reasons.merged()
    if entry.name in cut:
        return "sliced", None
    if not entry.tensor_parallel or not (made or decision.reorder):
        return "left alone", None
    if not made:
        return "reordered", None
    if not made[-1].columns:
        stop = made[-1].stops.get(entry.name)
        why = reasons.not_carried() if stop is None else reasons.stopped(str(stop))
        return "left alone", why
    wanted = not decision.at or entry.name in decision.at
    why = reasons.no_columns_here() if wanted else reasons.hidden_uncut()
    return ("left alone" if decision.cuts_rows else "reordered"), why


def _together(refused: list[Reason]) -> Reason:
    """Return one reason why neither rows nor columns were cut: the first, with all texts."""
    first, *others = refused
    for other in others:
        first = first.because(other.text)
    return first


def _because(plan: NoCut, name_of: NameOf) -> Reason:
    """Return why a graph is not cut: along which axis, and what stops it there."""
    axis = _axis(plan.tried, name_of) if plan.tried is not None else []
    details = [f"tried along {', '.join(axis)}"] if axis else []
    if plan.stop is not None:
        what = plan.stop.collective
        details.append(f"{f'{what} is stopped' if what else 'rows are joined'} at {plan.stop}")
    reason = plan.reason.because(", ".join(details))
    if plan.tried is None or reason.code is not Code.COUPLED or not axis:
        return reason
    named = ", ".join(f"{name!r}: {dim}" for name, dim in _named(plan.tried, name_of))
    return replace(reason, advice=f"options={{'batch': {{{named}}}}} cuts it all the same")


def _named(analysis: Analysis, name_of: NameOf) -> Iterator[tuple[str, int]]:
    """Return the inputs where a cut begins, with the dimension of each."""
    for node, state in analysis.seeds.items():
        if node.op == "placeholder":
            yield name_of(node), state.dim


def _axis(analysis: Analysis, name_of: NameOf) -> list[str]:
    """Return the inputs where a cut begins, as ``input[dim]``."""
    return [f"{name}[{dim}]" for name, dim in _named(analysis, name_of)]


def _joins(analysis: Analysis) -> Iterator[Join]:
    """Return where and why cut values were made whole inside the graph."""
    for value, user in analysis.inner_joins():
        refusal = analysis.refusals.get(user)
        reason = refusal.reason if refusal else "wanted in another form"
        yield Join(value.name, f"{user.name} ({user.target})", reason, user_line(user))


def _candidates(decision: Decision, choice: Choice) -> list[CandidateReport]:
    """Return the compared candidates, in order."""
    return [
        CandidateReport(
            split=prediction.candidate.split,
            name=str(prediction.candidate),
            slices=list(prediction.candidate.rows),
            columns=prediction.candidate.columns,
            at=sorted(prediction.candidate.at),
            predicted_us=round(prediction.us, 3),
            exposed_us=round(prediction.exposed_us, 3),
            peak_bytes=prediction.peak_bytes,
            estimated=prediction.estimated,
            chosen=prediction is choice.chosen,
            reason=verdict,
        )
        for prediction, verdict in zip(decision.predictions, choice.verdicts, strict=True)
    ]
