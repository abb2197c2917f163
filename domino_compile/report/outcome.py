"""From what the passes found to what the report says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from torch import fx

from domino_compile import _compat
from domino_compile.analysis import CutPlan, NoCut
from domino_compile.analysis.propagate import Analysis
from domino_compile.graph.collectives import Site, find_sites, user_line
from domino_compile.graph.nodes import leading_to_computation
from domino_compile.graph.tags import origin_of
from domino_compile.planner import Choice, Prediction
from domino_compile.report import (
    CandidateReport,
    CollectiveReport,
    CompileReport,
    Join,
)
from domino_compile.report.origin import module_of

DATA_PARALLEL = "not tensor parallel: only an output (a gradient) depends on it"


def classify(graph: fx.Graph, sites: Sequence[Site]) -> dict[fx.Node, bool]:
    """For each launch whether it is part of the model's computation (tensor parallel).

    A data-parallel reduction is one of gradients that has nothing behind it but outputs: at most
    views and pointwise operations (a division by the number of ranks).
    """
    leading = leading_to_computation(graph)
    return {site.launch: site.launch in leading or _makes_activation(site) for site in sites}


def _makes_activation(site: Site) -> bool:
    """Whether the result is a tensor that the forward returns, not a gradient or a metric."""
    return not site.backward and site.launch.meta["val"].ndim > 0


def collective(site: Site, parallel: bool) -> CollectiveReport:
    """A collective, before anything is decided."""
    return CollectiveReport(
        name=site.launch.name,
        kind=site.kind,
        group=site.group,
        ranks=_compat.group_size(site.group),
        bytes=site.payload,
        source=site.source,
        phase="backward" if site.backward else "forward",
        action="reordered" if parallel else "left alone",
        reason="" if parallel else DATA_PARALLEL,
        module=module_of(site.launch),
    )


def tensor_parallel_groups(report: CompileReport) -> list[str]:
    """The process groups whose ranks compute the model together, by name, in order."""
    return sorted({c.group for c in report.collectives if c.reason != DATA_PARALLEL})


def disabled(name: str) -> NoCut:
    """A pass that the options leave out."""
    return NoCut(f"the pass {name!r} is disabled")


def no_cut(graph: fx.Graph, plan: NoCut, name_of: Callable[[fx.Node], str]) -> str:
    """Why a graph is not cut: the collective, the axis, what stops it there, what would work.

    Args:
        graph: the graph.
        plan: the refusal.
        name_of: gives the user's name of an input.
    """
    words = [plan.reason]
    if plan.tried is not None:
        words.append(_stopped(graph, plan.tried, name_of))
    if plan.instead:
        words.append(f"what would work: {plan.instead}")
    return "; ".join(words)


def _stopped(graph: fx.Graph, tried: Analysis, name_of: Callable[[fx.Node], str]) -> str:
    """The first collective that an axis does not cut, and the operation that stops it."""
    axis = ", ".join(
        f"{name_of(n) if n.op == 'placeholder' else n.name}[{s.dim}]"
        for n, s in tried.seeds.items()
    )
    cut = set(tried.sliced_collectives())
    sites = find_sites(graph)
    site = next((s for s in sites if s.launch not in cut), sites[0])
    what = f"the {site.kind} of {site.source}, along {axis}"
    waiting, seen = [site.launch], {site.launch}
    for node in waiting:  # nearest first
        refusal = tried.refusals.get(node)
        if refusal is not None:
            where = f"{node.name} ({node.target}) of {user_line(node)}"
            return f"{what}, is stopped by {where}: {refusal.reason}"
        more = [x for x in node.all_input_nodes if x not in seen]
        seen.update(more)
        waiting += more
    return f"{what}" if site.launch in cut else f"{what}, is not reached by it"


def outcome(
    report: CompileReport, graph: fx.Graph, plan: object, name_of: Callable[[fx.Node], str]
) -> None:
    """Write what was decided into the report; ``name_of`` gives the user's name of an input."""
    present = {n.name for n in graph.nodes}
    for entry in report.collectives:
        if entry.name not in present:
            entry.action, entry.reason = "merged", "summed before one all-reduce"
    if not isinstance(plan, CutPlan):
        assert isinstance(plan, NoCut)
        report.reason = no_cut(graph, plan, name_of)
        return
    report.status = "sliced"
    analysis = plan.analysis
    report.slices = [str(size) for size in plan.chunks.sizes]
    report.axis = [
        f"{name_of(n)}[{s.dim}]" for n, s in analysis.seeds.items() if n.op == "placeholder"
    ]
    cut = {n.name for n in analysis.sliced_collectives()}
    for entry in report.collectives:
        if entry.name in cut:
            entry.action, entry.reason = "sliced", ""
        elif entry.action == "reordered":
            entry.action, entry.reason = "left alone", "its payload does not carry the batch"
    report.joins = joins(analysis)


def column_outcome(
    report: CompileReport,
    graph: fx.Graph,
    plan: CutPlan | NoCut,
    name_of: Callable[[fx.Node], str],
    at: Collection[str],
) -> None:
    """Write what became of the columns; the rows' outcome is in the report already.

    Args:
        report: of the compile.
        graph: that was cut.
        plan: how.
        name_of: gives the user's name of an input.
        at: the collectives in front of which columns are cut, by name; empty for all.
    """
    if isinstance(plan, NoCut):
        report.reason = "; ".join(filter(None, (report.reason, no_cut(graph, plan, name_of))))
        return
    report.status, report.reason = "sliced", ""
    report.columns = [str(size) for size in plan.chunks.sizes]
    cut = {origin_of(n) or n.name for n in plan.analysis.sliced_collectives()}
    for entry in report.collectives:
        if entry.name in cut:
            entry.action, entry.reason = "sliced", ""
        elif entry.action == "reordered":
            wanted = not at or entry.name in at
            impossible = "no product in front of it whose columns could be cut"
            entry.reason = impossible if wanted else "hidden without a cut"
    report.joins += joins(plan.analysis)


def candidates(choice: Choice, predictions: Sequence[Prediction]) -> list[CandidateReport]:
    """What was compared, in the order of comparing."""
    return [
        CandidateReport(
            split=found.candidate.split,
            name=str(found.candidate),
            slices=list(found.candidate.rows),
            columns=found.candidate.columns,
            at=sorted(found.candidate.at),
            predicted_us=round(found.us, 3),
            exposed_us=round(found.exposed_us, 3),
            peak_bytes=found.peak_bytes,
            estimated=found.estimated,
            chosen=found is choice.chosen,
            reason=verdict,
        )
        for found, verdict in zip(predictions, choice.verdicts, strict=True)
    ]


def left_alone(report: CompileReport) -> None:
    """Nothing is done to the graph."""
    report.status = "inductor"
    for entry in report.collectives:
        if entry.action == "reordered":
            entry.action = "left alone"


def joins(analysis: Analysis) -> list[Join]:
    """Where cut values were made whole inside the graph, and why."""
    result = []
    for value, user in analysis.inner_joins():
        refusal = analysis.refusals.get(user)
        reason = refusal.reason if refusal else "wanted in another form"
        result.append(Join(value.name, f"{user.name} ({user.target})", reason, user_line(user)))
    return result
