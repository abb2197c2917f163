"""The passes in the order in which they run: a table of contents of all rewriting.

``JOINT`` runs on the joint forward and backward graph (or the inference graph) before it is
partitioned, ``GRAPH`` on each of the graphs that come out. What is done with a graph is decided
between ``PREPARE`` and ``CUT``, on the graph that ``PREPARE`` leaves; where that finds no slices,
``TRIED`` may make some possible, and is undone if they are not chosen. The numbers in the names of
dumps and the README's table come from here.

Importing this module does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from domino_compile.options import PassName
from domino_compile.pipeline.contract import Context, Pass

if TYPE_CHECKING:
    from torch import fx

    from domino_compile.graph.collectives import Replaced
    from domino_compile.passes.accumulate import Accumulated
    from domino_compile.passes.columns import Columns
    from domino_compile.passes.exchange import Exchanged
    from domino_compile.passes.regroup import Regrouped
    from domino_compile.passes.relayout import Relaid
    from domino_compile.passes.schedule import ScheduleResult
    from domino_compile.passes.transport import Carried


def _always(at: Context) -> bool:
    return True


def _adds_in_products(at: Context) -> bool:
    """Return whether sums should move into products.

    They should only on GPUs, since torch's products copy first.
    """
    return at.cost.configured and at.cost.rates.multiprocessors > 0


def _fuses(at: Context) -> bool:
    return at.lowering.fuses


def _has_shards(at: Context) -> bool:
    return at.shards is not None


def _cuts_rows(at: Context) -> bool:
    return at.decision is not None and at.decision.cuts_rows


def _cuts_columns(at: Context) -> bool:
    return at.decision is not None and at.decision.parts > 1


def _exchanges_slices(at: Context) -> bool:
    made = at.outcomes.of(REGROUP)
    return _cuts_rows(at) and made is not None and bool(made)


def _fuses_reordered(at: Context) -> bool:
    return at.lowering.fuses and at.decision is not None and at.decision.reorder


def _tells_products(at: Context) -> bool:
    tells = at.lowering.products and at.on_gpu and at.cost.held > 0
    return tells and at.outcomes.of(SCHEDULE) is not None


def _has_transport(at: Context) -> bool:
    return at.choice is not None and at.outcomes.of(SCHEDULE) is not None


def _normalise(graph: fx.Graph, at: Context) -> Replaced:
    from domino_compile.passes.normalise import normalise_graph
    from domino_compile.passes.written import forward_writes

    forward_writes(graph)
    return normalise_graph(graph)


def _accumulate(graph: fx.Graph, at: Context) -> Accumulated:
    from domino_compile.passes.accumulate import accumulate_products

    return accumulate_products(graph)


def _materialise(graph: fx.Graph, at: Context) -> int:
    from domino_compile.passes.materialise import materialise_values

    return materialise_values(graph)


def _regroup(graph: fx.Graph, at: Context) -> Regrouped:
    from domino_compile.passes.regroup import regroup_graph

    assert at.shards is not None
    return regroup_graph(graph, at.shards)


def _slice(graph: fx.Graph, at: Context) -> Replaced:
    from domino_compile.passes.materialise import materialise_joined
    from domino_compile.passes.slice import slice_graph

    assert at.decision is not None
    replaced = slice_graph(graph, at.decision.cut_plan, _adds_in_products(at))
    if at.lowering.fuses:
        materialise_joined(graph)
    return replaced


def _columns(graph: fx.Graph, at: Context) -> Columns:
    from domino_compile.passes.columns import slice_columns

    assert at.decision is not None and at.found is not None
    return slice_columns(graph, at.decision.parts, at.found.to_overlap, at.decision.at)


def _exchange(graph: fx.Graph, at: Context) -> Exchanged:
    from domino_compile.passes.exchange import exchange_tokens

    made = at.outcomes.of(REGROUP)
    assert made is not None
    return exchange_tokens(graph, made)


def _relayout(graph: fx.Graph, at: Context) -> Relaid:
    from domino_compile.passes.relayout import relayout_graph

    return relayout_graph(graph)


def _schedule(graph: fx.Graph, at: Context) -> ScheduleResult:
    from domino_compile.passes.schedule import schedule_graph, schedule_in_order

    result = schedule_graph(graph, at.cost, at.memory_cap, at.held_bytes, at.saved)
    if at.agreed(result):
        return result
    return schedule_in_order(
        *(graph, result, at.cost, at.memory_cap), held=at.held_bytes, saved=at.saved
    )


def _products(graph: fx.Graph, at: Context) -> dict[str, float]:
    from domino_compile.passes.products import mark_products

    ordered = at.outcomes.of(SCHEDULE)
    assert ordered is not None
    return mark_products(graph, ordered.units, ordered.after, at.cost.held)


def _transport(graph: fx.Graph, at: Context) -> Carried:
    from domino_compile.passes.transport import Carried, transport_collectives

    if at.choice is None:
        return Carried()
    return transport_collectives(graph, at.choice, at.carried)


def _pin(graph: fx.Graph, at: Context) -> int:
    from domino_compile.passes.pin import pin_order

    return pin_order(graph)


NORMALISE = Pass(PassName.NORMALISE.value, _always, _normalise)
ACCUMULATE = Pass(PassName.ACCUMULATE.value, _adds_in_products, _accumulate)
MATERIALISE = Pass(PassName.MATERIALISE.value, _fuses, _materialise)
REGROUP = Pass(PassName.REGROUP.value, _has_shards, _regroup)
SLICE = Pass(PassName.SLICE.value, _cuts_rows, _slice)
COLUMNS = Pass(PassName.COLUMNS.value, _cuts_columns, _columns)
EXCHANGE = Pass(PassName.EXCHANGE.value, _exchanges_slices, _exchange)
RELAYOUT = Pass(PassName.RELAYOUT.value, _fuses_reordered, _relayout, optional=True)
SCHEDULE = Pass(PassName.SCHEDULE.value, _always, _schedule)
PRODUCTS = Pass(PassName.PRODUCTS.value, _tells_products, _products)
TRANSPORT = Pass(PassName.TRANSPORT.value, _has_transport, _transport)
PIN = Pass(PassName.PIN.value, _fuses, _pin)

PREPARE = (NORMALISE, ACCUMULATE, MATERIALISE)
TRIED = (REGROUP,)
CUT = (SLICE, COLUMNS, EXCHANGE, RELAYOUT)
JOINT = (*PREPARE, *TRIED, *CUT)
GRAPH = (SCHEDULE, PRODUCTS, TRANSPORT, PIN)


def title(name: str) -> str:
    """Return the name of a pass in dumps: its number in the order, and its name."""
    names = [made.name for made in (*JOINT, *GRAPH)]
    return f"{names.index(name) + 1:02}.{name}"
