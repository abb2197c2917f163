"""Decides once more about a graph that has no slices, with its ranks' tokens exchanged.

One long sequence with sequence parallelism has no axis that can be cut, or only one along which
attention must be joined, where a program takes over one rank's tokens from outside. An exchange of
tokens there (``passes.regroup``) makes slices possible, but costs collectives. So it is tried, and
kept if the planner then chooses a cut that is faster than what was chosen without.
"""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from domino_compile.analysis import CutPlan, NoCut, reasons
from domino_compile.analysis.shards import Shards, find_shards
from domino_compile.graph.tags import mark_exchanged
from domino_compile.passes.regroup import Regrouped, undo
from domino_compile.pipeline.contract import Context
from domino_compile.pipeline.decide import Question, decide, planned
from domino_compile.pipeline.decision import Decision
from domino_compile.pipeline.order import EXCHANGE, REGROUP, SLICE, TRIED
from domino_compile.pipeline.runner import Runner
from domino_compile.ratio import factor_text


def decide_regrouped(
    about: Question, first: Decision, graph: fx.Graph, at: Context, runner: Runner
) -> Decision:
    """Return the decision about a graph, which has its tokens exchanged if that is better.

    Args:
        about: The question about the graph as it is.
        first: The answer to it.
        graph: The graph, to which exchanges are added if that is better.
        at: The context of the graph's passes.
        runner: Runs the pass.
    """
    at.shards = _shards(about, first)
    if at.shards is None:
        return first
    runner.run(TRIED, graph, "joint", at)
    made = at.outcomes.of(REGROUP)
    if not made:
        return first
    if EXCHANGE.name not in about.options.disable_passes:
        for exchange in (*made.entries, *made.exits):
            mark_exchanged(exchange.nodes[0])
    program = planned(graph, at.lowering, about.options)
    second = decide(replace(about, program=program, units=None, entries=_entries(made)))
    if _better(second, first, about.options.margin):
        return second
    undo(graph, made)
    runner.undone(REGROUP, at)
    why = _why_not(second, first, about.options.margin)
    if why is None:
        return first
    return replace(first, rows=why, possible=second.possible)


def _shards(about: Question, first: Decision) -> Shards | None:
    """Return where tokens could be exchanged, if that may help."""
    if about.hints.batch or {REGROUP.name, SLICE.name} & set(about.options.disable_passes):
        return None
    if about.options.slices == 1 or (_cuts(first) and _joins(first) == 0):
        return None
    return find_shards(about.graph, about.hints.parameters_in(about.graph))


def _entries(made: Regrouped) -> dict[fx.Node, int]:
    return {exchange.gathered: exchange.dim for exchange in made.entries}


def _cuts(decision: Decision) -> bool:
    return decision.cuts_rows or decision.parts > 1


def _joins(decision: Decision) -> int:
    """Return how often what is cut is joined within the graph."""
    rows = decision.rows
    return len(rows.analysis.inner_joins()) if isinstance(rows, CutPlan) else 0


def _why_not(second: Decision, first: Decision, margin: float) -> NoCut | None:
    """Return why nothing is cut, with exchanges either; ``None`` if something is.

    The first decision's own reason is about an axis that is not the tokens, and so says less.
    """
    if _cuts(first):
        return None
    if isinstance(second.rows, NoCut):
        return NoCut(reasons.with_exchanges(second.rows.reason), stop=second.rows.stop)
    if second.choice is None or first.choice is None:
        return None
    with_exchange, without = second.choice.chosen, first.choice.chosen
    predicted = (
        f"({with_exchange.candidate}) is predicted {factor_text(without.us, with_exchange.us)}"
    )
    return NoCut(reasons.exchange_below_margin(predicted, margin))


def _better(second: Decision, first: Decision, margin: float) -> bool:
    """Return whether the decision with exchanges is better than the one without."""
    if not second.cuts_rows:
        return False
    if second.choice is None or first.choice is None:  # the options ask for slices
        return not first.cuts_rows or _joins(second) < _joins(first)
    without, with_exchange = first.choice.chosen.us, second.choice.chosen.us
    return with_exchange <= without * (1 if _cuts(first) else 1 - margin)
