"""``schedule``: order a graph so that collectives run while others compute.

Contract: The pass takes a forward, backward or inference graph after Inductor's own passes, which
is functional except for final writes to inputs. Afterwards the same nodes are in the planned order.
Views and waits come directly before their first use, and a launch comes directly after its input.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import fx

from domino_compile.cost import CostModel
from domino_compile.graph.collectives import is_launch
from domino_compile.graph.tags import mark_in_order
from domino_compile.scheduling import (
    Result,
    Schedule,
    StepMemory,
    UnitGraph,
    allowed_bytes,
    build_units,
    improved,
    inductors_bytes,
    mark_recomputed,
    own_orders,
    run_order,
    schedule_units,
    step_memory,
)
from domino_compile.scheduling.kinds import event_kind

#: How often an order is improved at most, until its exact memory fits. Each time the search is
#: allowed less: a third of what was too much, and at least this fraction.
ATTEMPTS, STEP = 4, 0.02


@dataclass(frozen=True)
class ScheduleResult:
    """The units of a graph, and the schedule before and after.

    Attributes:
        units: The units of the graph.
        before: The order in which the graph was found.
        after: The planned order.
        events: The launches, waits, matrix products and attention in the planned order, each as
            ``kind name``.
        memory: The memory of a step while the graph runs in the planned order.
    """

    units: UnitGraph
    before: Schedule
    after: Schedule
    events: tuple[str, ...]
    memory: StepMemory


def schedule_graph(
    graph: fx.Graph,
    cost: CostModel,
    memory_cap: float,
    held: int = 0,
    saved: Sequence[Result] = (),
) -> ScheduleResult:
    """Reorder the graph in place.

    Args:
        graph: The graph.
        cost: The model that predicts times.
        memory_cap: How much more memory a step may need than with Inductor's own order, as a
            fraction.
        held: The bytes of parameters and inputs of the whole step.
        saved: For a backward graph, the results of its forward, if known.
    """
    known: dict[tuple[int, ...], StepMemory] = {}

    def memory_of(schedule: Schedule) -> StepMemory:
        """Return the exact memory of an order; several ways of ordering may find the same."""
        order = tuple(schedule.order)
        if order not in known:
            known[order] = step_memory(graph, [units.units[i] for i in order], held, saved)
        return known[order]

    units = build_units(graph, cost)
    mark_recomputed(graph, units.units)
    before = run_order(units)
    own = own_orders(units)
    peaks = [memory_of(order).peak_bytes - held for order in own]
    most = allowed_bytes(inductors_bytes(units, peaks), memory_cap, held) + held
    found = [order.peak_bytes for order in own]
    room = allowed_bytes(inductors_bytes(units, found), memory_cap, held)
    after = schedule_units(units, room, lambda o: memory_of(o).peak_bytes <= most, known=own)
    for _ in range(ATTEMPTS):
        better = improved(units, after, room)
        over = memory_of(better).peak_bytes - most
        if better is after or over <= 0:
            after = better
            break
        room = min(room, better.peak_bytes) - max(over / 3, STEP * room)
    memory = memory_of(after)
    _order(graph, units, after)
    return ScheduleResult(units, before, after, events_of(graph), memory)


def schedule_in_order(
    graph: fx.Graph,
    earlier: ScheduleResult,
    cost: CostModel,
    memory_cap: float,
    held: int = 0,
    saved: Sequence[Result] = (),
) -> ScheduleResult:
    """Schedule a graph once more, its collectives in the order in which they were found.

    Args:
        graph: The graph, in the planned order.
        earlier: The earlier result, with the order in which the graph was found.
        cost: The model that predicts times.
        memory_cap: As for ``schedule_graph``, and so are the others.
        held: The bytes of parameters and inputs of the whole step.
        saved: For a backward graph, what its forward returns, where that is known.
    """
    _order(graph, earlier.units, earlier.before)
    for launch in filter(is_launch, graph.nodes):
        mark_in_order(launch)
    return schedule_graph(graph, cost, memory_cap, held, saved)


def _order(graph: fx.Graph, units: UnitGraph, schedule: Schedule) -> None:
    reorder(graph, (node for index in schedule.order for node in units.units[index].nodes))


def events_of(graph: fx.Graph) -> tuple[str, ...]:
    """Return the nodes of a graph whose order matters, each as ``kind name``."""
    return tuple(f"{kind} {n.name}" for n in graph.nodes if (kind := event_kind(n)))


def reorder(graph: fx.Graph, order: Iterable[fx.Node]) -> None:
    """Put nodes in an order; nodes that are not named move in front of their first user."""
    output = graph.output_node()
    placed = {n for n in graph.nodes if n.op == "placeholder"}

    def place(node: fx.Node) -> None:
        stack = [node]
        while stack:
            top = stack[-1]
            missing = [x for x in top.all_input_nodes if x not in placed]
            if missing:
                stack.extend(reversed(missing))
                continue
            stack.pop()
            if top not in placed:
                output.prepend(top)
                placed.add(top)

    for node in order:
        place(node)
    for node in list(graph.nodes):
        if node is not output and node not in placed:
            place(node)
