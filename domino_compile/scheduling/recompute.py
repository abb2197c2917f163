"""When backward computes again what forward did not keep.

A backward graph holds units that need no gradient: they make values of forward again, out of what
forward saved. All of them could run at once, before anything is differentiated, and all that they
make would then live together, as if nothing had been checkpointed. They are needed late, and each
must wait.

A *stage* is what is recomputed for one gradient unit: all that this unit is the first to need, in
the order of the graph. Of a checkpointed block that is nearly the whole block, of one slice of it a
stage of its own; what the partitioner recomputes anyway makes small ones. A stage may begin while
those made earlier and not yet in use are smaller than a *window*, which is less than one block. So
recomputation runs at most one block ahead of differentiation, and fills the gaps there::

    recompute 3 | differentiate 3, recompute 2 | differentiate 2, recompute 1 | ...
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from domino_compile.graph.collectives import backward_nodes
from domino_compile.scheduling.simulate import run_order
from domino_compile.scheduling.units import Unit, UnitGraph


@dataclass(frozen=True)
class Stage:
    """What is recomputed for one gradient unit.

    Attributes:
        user: the gradient unit that is the first to need it.
        units: the recomputed units, in the order of the graph.
        out_bytes: what they leave in memory, all together.
    """

    user: int
    units: tuple[int, ...]
    out_bytes: int


def mark_recomputed(graph: fx.Graph, units: Sequence[Unit]) -> None:
    """Note which units of a backward graph need no gradient; of any other graph none does.

    Args:
        graph: a forward, backward or inference graph, not a joint one.
        units: its units.
    """
    gradients = backward_nodes(graph)
    if not gradients:
        return
    for unit in units:
        needs = any(node in gradients for node in unit.nodes)
        unit.recomputed = not needs and all(units[i].recomputed for i in unit.after)


def stages_of(units: Sequence[Unit]) -> list[Stage]:
    """The stages of a graph, in the order in which they are needed.

    What is recomputed and used by no gradient is in none.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, user in _first_users(units).items():
        members[user].append(index)
    return [
        Stage(user, tuple(sorted(made)), sum(units[i].out_bytes for i in made))
        for user, made in sorted(members.items())
    ]


def _first_users(units: Sequence[Unit]) -> dict[int, int]:
    """For each recomputed unit the first gradient unit that needs it, directly or not."""
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
    """For each recomputed unit that must wait, the gradient unit that it runs behind.

    Args:
        units: of the graph.
        stages: of the graph.
        window: bytes; how much may have been recomputed and not be in use yet when a stage begins.
    """
    found: dict[int, int] = {}
    unused, behind = 0, 0
    for place, stage in enumerate(stages):
        while behind < place and unused >= window:
            unused -= stages[behind].out_bytes
            behind += 1
        if behind > 0:
            found |= dict.fromkeys(stage.units, stages[behind - 1].user)
        unused += stage.out_bytes
    return found


def window_of(units: Sequence[Unit], stages: Sequence[Stage]) -> float:
    """The bytes below which another stage may begin, see ``holds``.

    Less than what one block leaves, which is the largest stage for each slice, and more than what
    all of its slices but one leave: blocks are not all of one size.
    """
    slices = {unit.piece for unit in units if unit.recomputed and unit.piece is not None}
    largest = max((stage.out_bytes for stage in stages), default=0)
    return (max(1, len(slices)) - 0.5) * largest


def least_bytes(graph: UnitGraph) -> int:
    """What the order of the graph needs, or the one that recomputes late if that needs less.

    Inductor alone looks for an order that needs little memory, so that the order found may need far
    more than its program does.
    """
    late = late_order(graph, stages_of(graph.units))
    return min(run_order(graph).peak_bytes, run_order(graph, late).peak_bytes)


def late_order(graph: UnitGraph, stages: Sequence[Stage]) -> list[int]:
    """The order of the graph, but for stages: each is right in front of its user.

    What is recomputed for the output alone comes last.
    """
    made = {stage.user: stage.units for stage in stages}
    order: list[int] = []
    for unit in graph.units:
        if not unit.recomputed:
            order += [*made.get(unit.index, ()), unit.index]
    placed = set(order)
    return order + [unit.index for unit in graph.units if unit.index not in placed]
