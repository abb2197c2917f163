"""From what the passes found to what the report says."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from domino_compile import _compat
from domino_compile.analysis import CutPlan, NoCut
from domino_compile.analysis.propagate import Analysis
from domino_compile.collectives import Site, is_launch, is_wait, kind_of, payload_of, user_line
from domino_compile.cost.model import is_attention, is_matmul
from domino_compile.passes.schedule import ScheduleResult
from domino_compile.report import (
    CollectiveReport,
    CompileReport,
    Join,
    ScheduleReport,
    WireReport,
    table,
)
from domino_compile.rules.registry import rule_of
from domino_compile.scheduling.units import is_free

DATA_PARALLEL = "not tensor parallel: only an output (a gradient) depends on it"


def classify(graph: fx.Graph, sites: Sequence[Site]) -> dict[fx.Node, bool]:
    """For each launch whether it is part of the model's computation (tensor parallel).

    A data-parallel reduction of gradients has nothing behind it but outputs: at most views and
    pointwise operations (a division by the number of ranks).
    """
    leads: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node in leads or _computes(node):
            leads.update(node.all_input_nodes)
    return {site.launch: site.launch in leads for site in sites}


def _computes(node: fx.Node) -> bool:
    """Whether the node is more than a view, a pointwise operation or a collective."""
    if node.op != "call_function" or is_free(node) or is_launch(node) or is_wait(node):
        return False
    rule = rule_of(node.target)
    return rule is None or rule.family != "pointwise"


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
    )


def disabled(name: str) -> NoCut:
    """A pass that the options leave out."""
    return NoCut(f"the pass {name!r} is disabled")


def outcome(report: CompileReport, graph: fx.Graph, plan: object) -> None:
    """Write what was decided into the report."""
    present = {n.name for n in graph.nodes}
    for entry in report.collectives:
        if entry.name not in present:
            entry.action, entry.reason = "merged", "summed before one all-reduce"
    if not isinstance(plan, CutPlan):
        assert isinstance(plan, NoCut)
        report.reason = plan.reason
        return
    report.status = "sliced"
    analysis = plan.analysis
    report.slices = [str(size) for size in plan.chunks.sizes]
    report.axis = [f"{n.name}[{s.dim}]" for n, s in analysis.seeds.items() if n.op == "placeholder"]
    cut = {n.name for n in analysis.sliced_collectives()}
    for entry in report.collectives:
        if entry.name in cut:
            entry.action = "sliced"
        elif entry.action == "reordered":
            entry.action, entry.reason = "left alone", "its payload does not carry the batch"
    report.joins = joins(analysis)


def joins(analysis: Analysis) -> list[Join]:
    """Where cut values were made whole inside the graph, and why."""
    result = []
    for value, user in analysis.inner_joins():
        refusal = analysis.refusals.get(user)
        reason = refusal.reason if refusal else "wanted in another form"
        result.append(Join(value.name, f"{user.name} ({user.target})", reason, user_line(user)))
    return result


def event_kind(node: fx.Node) -> str | None:
    """How the schedule calls a node, if it is an event."""
    if is_launch(node):
        return "launch"
    if is_wait(node):
        return "wait"
    if is_attention(node):
        return "attention"
    return "matmul" if is_matmul(node) else None


def schedule(phase: str, graph: fx.Graph, result: ScheduleResult) -> ScheduleReport:
    """The planned order of one graph, in words."""
    events = [f"{kind} {n.name}" for n in graph.nodes if (kind := event_kind(n))]
    units, spans = result.units.units, {s.unit: s for s in result.after.spans}
    wires = []
    for index in result.after.order:
        unit = units[index]
        if not unit.launch:
            continue
        span, node = spans[index], unit.nodes[0]
        hidden = [
            units[s.unit].name
            for s in result.after.spans
            if not units[s.unit].launch and s.start_us < span.end_us and s.end_us > span.start_us
        ]
        exposed = sum(s.stall_us for s in result.after.spans if s.stalled_by == index)
        wires.append(
            WireReport(
                name=node.name,
                kind=kind_of(node),
                group=str(unit.group),
                slice=unit.slice,
                bytes=payload_of(node),
                wire_us=round(unit.cost_us, 3),
                exposed_us=round(exposed, 3),
                hidden_under=hidden,
            )
        )
    return ScheduleReport(
        phase=phase,
        events=events,
        wires=wires,
        predicted_before_us=round(result.before.total_us, 3),
        predicted_us=round(result.after.total_us, 3),
        peak_bytes_before=result.before.peak_bytes,
        peak_bytes=result.after.peak_bytes,
    )


def schedule_text(entry: ScheduleReport) -> str:
    """The schedule of one graph as text."""
    wires = {w.name: w for w in entry.wires}
    lines = [
        f"{entry.phase}: predicted {entry.predicted_us:.0f} us"
        f" (in the order found {entry.predicted_before_us:.0f} us),"
        f" peak memory {entry.peak_bytes} bytes (found {entry.peak_bytes_before})",
        "",
    ]
    for event in entry.events:
        kind, name = event.split(" ", 1)
        line = f"  {kind:9s} {name}"
        if kind == "launch" and name in wires:
            wire = wires[name]
            where = "whole" if wire.slice is None else f"slice {wire.slice}"
            line += f"  [{where}, {wire.bytes} bytes, {wire.wire_us:.0f} us on the wire"
            line += f", exposed {wire.exposed_us:.0f} us; under: {', '.join(wire.hidden_under) or 'nothing'}]"
        lines.append(line)
    return "\n".join(lines) + "\n"


def report_text(report: CompileReport) -> str:
    """The report of a compile as text."""
    lines = [report.summary(), f"options: {report.options}"]
    if report.axis:
        lines.append(f"cut along: {', '.join(report.axis)}; rows: {' + '.join(report.slices)}")
    lines += ["", table(report.collectives)]
    if report.joins:
        lines += ["", "joined inside the graph:"]
        lines += [f"  {j.value} for {j.needed_by}: {j.reason} ({j.source})" for j in report.joins]
    return "\n".join(lines) + "\n"
