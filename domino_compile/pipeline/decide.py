"""Decides how to treat a joint graph, from options, analysis and planner."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import sympy
from torch import fx

from domino_compile import _compat
from domino_compile.analysis import CutPlan, NoCut, cut_columns, infer_cut, reasons
from domino_compile.analysis.found import Found
from domino_compile.analysis.reasons import Reason
from domino_compile.analysis.token_order import removable
from domino_compile.cost import CostModel
from domino_compile.graph.collectives import has_own_sizes
from domino_compile.options import Options
from domino_compile.pipeline.contract import Lowering
from domino_compile.pipeline.decision import Decision, Possible
from domino_compile.pipeline.hints import Hints
from domino_compile.pipeline.order import COLUMNS, RELAYOUT, SLICE
from domino_compile.planner import Planner, Policy, Prediction, Unfolded, rows_cut, unfold
from domino_compile.scheduling import UnitGraph


@dataclass(frozen=True)
class Question:
    """Everything that a decision depends on.

    Attributes:
        graph: The joint or inference graph, collectives merged.
        found: The collectives of the graph.
        cost: The model that predicts times.
        alone: What Inductor alone is predicted to take, for the graph as it was captured.
        program: The graph as it will be partitioned (``planned``).
        units: The units of ``program``, if already built.
        options: The user's options.
        hints: What the user says about the inputs.
        held: The bytes of parameters and inputs.
        entries: Values along whose dimension rows are cut, instead of an input's.
    """

    graph: fx.Graph
    found: Found
    cost: CostModel
    alone: Prediction
    program: Unfolded
    units: UnitGraph | None
    options: Options
    hints: Hints = field(default_factory=Hints)
    held: int = 0
    entries: Mapping[fx.Node, int] = field(default_factory=dict)


def planned(
    graph: fx.Graph, lowering: Lowering, options: Options, known: Unfolded | None = None
) -> Unfolded:
    """Return a graph as it will be partitioned, for the planner.

    Args:
        graph: A joint or inference graph.
        lowering: What passes must know about the lowering.
        options: The user's options.
        known: The graph as it would be partitioned without our passes, if that is known.
    """
    relaid = lowering.fuses and RELAYOUT.name not in options.disable_passes
    if known is not None and not (relaid and any(map(removable, graph.nodes))):
        return known
    return unfold(graph, relaid)


def left_alone(found: Found, options: Options, ranks_differ: str = "") -> Reason | None:
    """Return why a graph is left to Inductor alone without a decision, if it is.

    Args:
        found: The collectives of the graph.
        options: The user's options.
        ranks_differ: How the ranks' plans differ; empty if they do not.
    """
    if ranks_differ:
        return reasons.ranks_differ(ranks_differ)
    with_own_sizes = next((site for site in found.sites if has_own_sizes(site.launch)), None)
    if with_own_sizes is not None and options.slices == "auto":
        return reasons.own_sizes(with_own_sizes.kind, with_own_sizes.source)
    return None


def decide(about: Question) -> Decision:
    """Choose what is done with a graph, and find out what else could be."""
    decision = _decide(about)
    return replace(decision, possible=_possible(about, decision))


def _possible(about: Question, decision: Decision) -> Possible:
    """Return which collectives could be cut, if not all are.

    Only what is possible is advised.
    """
    rows = decision.rows if isinstance(decision.rows, CutPlan) else _rows(about, 2)
    sites = about.found.to_overlap
    by_rows = _names(rows)
    if decision.cuts_rows and by_rows >= {site.launch.name for site in sites}:
        return Possible(by_rows)
    if COLUMNS.name in about.options.disable_passes:
        return Possible(by_rows)
    return Possible(by_rows, _names(cut_columns(about.graph, 2, sites)))


def _names(plan: CutPlan | NoCut) -> frozenset[str]:
    if not isinstance(plan, CutPlan):
        return frozenset()
    return frozenset(launch.name for launch in plan.analysis.sliced_collectives())


def _decide(about: Question) -> Decision:
    options = about.options
    slices, columns = options.slices, _columns_asked(options)
    if slices != "auto":
        rows = _rows(about, slices)
        return Decision(True, rows, 1 if columns is None else columns)
    rows = _rows(about, 2)
    planner = Planner(
        program=about.program,
        cost=about.cost,
        alone=about.alone,
        rows=rows,
        columns=cache(
            lambda at: cut_columns(about.graph, columns or 2, about.found.to_overlap, at)
        ),
        policy=_policy(options, about.held),
        parts=columns,
        units=about.units,
    )
    return _decided(planner, rows, columns)


def _decided(planner: Planner, rows: CutPlan | NoCut, columns: int | None) -> Decision:
    """Turn the planner's choice into a decision."""
    choice = planner.run()
    chosen = choice.chosen.candidate
    if columns is not None:
        # Also where columns cannot be cut: the pass then says why.
        chosen = replace(chosen, columns=columns)
    reason = choice.reason
    if chosen.rows and isinstance(rows, CutPlan):
        rows = rows_cut(rows, chosen)
    elif isinstance(rows, CutPlan):
        rows = NoCut(reason if reason is not None else reasons.no_gain())
    elif reason is not None:
        rows = replace(rows, reason=rows.reason.because(reason.text))
    return Decision(
        reorder=chosen.reorder or chosen.cut,
        rows=rows,
        parts=chosen.columns,
        at=chosen.at,
        choice=choice,
        predictions=tuple(planner.predictions),
    )


def _columns_asked(options: Options) -> int | None:
    """Return the number of column parts that the options ask for; ``None`` to choose."""
    if COLUMNS.name in options.disable_passes:
        return 1
    return None if options.columns == "auto" else options.columns


def _policy(options: Options, held: int) -> Policy:
    """Return the limits for a cut. If it is timed as well, a small predicted loss is allowed."""
    margins: Mapping[str, float] = {"predict": options.margin, "measure": -options.margin}
    return Policy(margins.get(options.guard, -math.inf), options.memory_cap, held)


def _rows(about: Question, slices: int) -> CutPlan | NoCut:
    """Return how the rows can be cut, or why they cannot."""
    if SLICE.name in about.options.disable_passes:
        return NoCut(reasons.pass_disabled(SLICE.name))
    hints = about.hints
    named = about.entries or {
        node: hints.batch[position]
        for node in about.graph.find_nodes(op="placeholder")
        if (position := _compat.input_position(node)) is not None and position in hints.batch
    }
    unlikely = hints.parameters_in(about.graph)
    plan = infer_cut(about.graph, slices, named, unlikely, about.found.to_overlap)
    if isinstance(plan, CutPlan) and about.options.lowering == "inductor":
        cuts = plan.analysis.cuts if plan.analysis.looks_back else ()
        if any(map(_compat.is_misdeclared_attention, cuts)):
            return NoCut(reasons.misdeclared_attention())
    if isinstance(plan, CutPlan) and plan.chunks.dynamic:
        bounded = _compat.strictly_bounded_sizes(about.graph)
        if bounded & sympy.sympify(plan.chunks.total).free_symbols:
            return NoCut(reasons.bounded_batch())
    return plan
