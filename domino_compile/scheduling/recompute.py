"""When backward recomputes the values that forward did not keep.

A backward graph contains units that need no gradient: they recompute forward's values from the
tensors that forward saved. All of them could run first, before anything is differentiated, but then
all their results would live together, as if nothing had been checkpointed. So each of them has to
wait until shortly before it is needed.

A *stage* is the work that is recomputed for one gradient unit: all units that this unit is the
first to need, in the order of the graph. For a checkpointed block a stage is nearly the whole
block, with a separate stage for each slice; the partitioner's own recomputation of cheap values
makes small stages. A stage may begin while the earlier stages not yet in use are smaller than a
*window*, which is less than one block. So recomputation runs at most one block ahead of
differentiation, and fills the gaps there::

    recompute 3 | differentiate 3, recompute 2 | differentiate 2, recompute 1 | ...
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import fx

from domino_compile.graph.collectives import backward_nodes
from domino_compile.scheduling.simulate import Schedule, run_order
from domino_compile.scheduling.units import Unit, UnitGraph

#: How much more live memory Inductor's program needs than the thriftier of a graph's own orders
#: where all-gathers or all-reduces are recomputed, as a fraction, without parameters and inputs.
#: Measured with ``benchmarks.jobs`` on an H200 (torch 2.11): 0.16 and 0.35 with sequence
#: parallelism (Llama 3 8B, full and selective checkpointing), 0.35 to 0.9 with all-reduces.
MORE_GATHERED, MORE_REDUCED = 0.16, 0.37


@dataclass(frozen=True)
class Stage:
    """The units that are recomputed for one gradient unit.

    Attributes:
        user: The gradient unit that is the first to need it.
        units: The recomputed units, in the order of the graph.
        out_bytes: The bytes that they leave in memory together.
    """

    user: int
    units: tuple[int, ...]
    out_bytes: int


def mark_recomputed(graph: fx.Graph, units: Sequence[Unit]) -> None:
    """Mark the units of a backward graph that need no gradient; other graphs have none.

    Args:
        graph: A forward, backward or inference graph, not a joint one.
        units: The units of the graph.
    """
    gradients = backward_nodes(graph)
    if not gradients:
        return
    for unit in units:
        needs = any(node in gradients for node in unit.nodes)
        unit.recomputed = not needs and all(units[i].recomputed for i in unit.after)


def stages_of(units: Sequence[Unit]) -> list[Stage]:
    """Return the stages of a graph, in the order in which they are needed.

    Recomputed units that no gradient needs are in no stage.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, user in _first_users(units).items():
        members[user].append(index)
    return [
        Stage(user, tuple(sorted(made)), sum(units[i].out_bytes for i in made))
        for user, made in sorted(members.items())
    ]


def _first_users(units: Sequence[Unit]) -> dict[int, int]:
    """Return, for each recomputed unit, the first gradient unit that needs it, directly or not."""
    first: dict[int, int] = {}
    for unit in reversed(units):
        user = first.get(unit.index) if unit.recomputed else unit.index
        if user is None:
            continue
        for needed in unit.after:
            if units[needed].recomputed:
                first[needed] = min(user, first.get(needed, user))
    return first


def holds(units: Sequence[Unit], stages: Sequence[Stage], window: float) -> dict[int, int]:
    """Return, for each recomputed unit that must wait, the gradient unit that it runs after.

    Args:
        units: The units of the graph.
        stages: The stages of the graph.
        window: The bytes that may be recomputed but not yet in use when a stage begins.
    """
    runs_after: dict[int, int] = {}
    unused, behind = 0, 0
    for place, stage in enumerate(stages):
        while behind < place and unused >= window:
            unused -= stages[behind].out_bytes
            behind += 1
        if behind > 0:
            runs_after |= dict.fromkeys(stage.units, stages[behind - 1].user)
        unused += stage.out_bytes
    return runs_after


def window_of(units: Sequence[Unit], stages: Sequence[Stage]) -> float:
    """Return the bytes below which another stage may begin, see ``holds``.

    This is less than one block leaves (the largest stage times the number of slices), and more than
    all of its slices but one leave, because blocks differ in size.
    """
    largest = max((stage.out_bytes for stage in stages), default=0)
    return (_slices(units) - 0.5) * largest


def _slices(units: Sequence[Unit]) -> int:
    """Return the number of slices in which values are recomputed."""
    return max(1, len({unit.piece for unit in units if unit.recomputed and unit.piece is not None}))


def own_orders(graph: UnitGraph) -> tuple[Schedule, Schedule]:
    """Return the order that recomputes late, and the order of the graph."""
    late = late_order(graph, stages_of(graph.units))
    own = run_order(graph)
    if late == list(range(len(late))):  # nothing is recomputed
        return own, own
    return run_order(graph, late), own


def inductors_bytes(graph: UnitGraph, peaks: Iterable[int] | None = None) -> float:
    """Estimate the live memory that Inductor's own program needs, without what the caller holds.

    Without us, Inductor looks for an order that needs little memory, so the captured order may need
    far more than its program does. Where collectives are recomputed, Inductor finds no order as
    thrifty as the one that recomputes late, but it keeps less than one more block.

    Args:
        graph: The units of the graph.
        peaks: The peaks of the graph's own orders, if they are known better.
    """
    least = min(peaks or (order.peak_bytes for order in own_orders(graph)))
    recomputed = [unit for unit in graph.units if unit.recomputed and unit.launch]
    if not recomputed:
        return least
    stages, slices = stages_of(graph.units), _slices(graph.units)
    block = slices * max((stage.out_bytes for stage in stages), default=0)
    largest = max(recomputed, key=lambda unit: unit.out_bytes)  # float8 also reduces small scales
    more = MORE_GATHERED if largest.keeps_input else MORE_REDUCED
    return least + min(block, more * least)


def allowed_bytes(inductors: float, cap: float, held: int) -> float:
    """Return the live memory that an order may need, without what the caller holds.

    Args:
        inductors: The live memory that Inductor's order needs (``inductors_bytes``).
        cap: How much more the whole step may need, as a fraction.
        held: The bytes of parameters and inputs, which the caller holds.
    """
    return inductors + cap * (inductors + held)


def late_order(graph: UnitGraph, stages: Sequence[Stage]) -> list[int]:
    """Return the order of the graph with each stage moved right in front of its user.

    Units that are recomputed for the output only come last.
    """
    made = {stage.user: stage.units for stage in stages}
    order: list[int] = []
    for unit in graph.units:
        if not unit.recomputed:
            order += [*made.get(unit.index, ()), unit.index]
    placed = set(order)
    return order + [unit.index for unit in graph.units if unit.index not in placed]
