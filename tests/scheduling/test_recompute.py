"""Recomputation runs at most one block ahead of differentiation, in every order that is chosen."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domino_compile.graph.tags import Piece
from domino_compile.scheduling import Unit, UnitGraph, run_order, schedule_units
from domino_compile.scheduling.recompute import late_order, stages_of
from tests.profiles import examples

SAVED, ACTIVATION, GRADIENT = 8, 10, 3


class Stack:
    """The backward of checkpointed blocks, the last first, each in some slices.

    Args:
        blocks: how many there are.
        slices: how many each is cut into.
        forward: for each unit of a recomputed block whether it is a collective.
        backward: for each gradient unit of a block whether it is a collective.
        first: whether recomputation of all blocks comes first in the graph.
        shared: whether all of it also needs one unit, as of rotary positions.
    """

    def __init__(
        self,
        blocks: int,
        slices: int,
        forward: list[bool],
        backward: list[bool],
        first: bool,
        shared: bool,
    ) -> None:
        self.units: list[Unit] = []
        self.block: dict[int, int] = {}
        self.inputs: list[tuple[int, set[int]]] = []
        self.results: set[int] = set()
        self.common = [self._unit(0, None, {}, 1, True).index] if shared else []
        self.slices, self.forward, self.backward = slices, forward, backward
        made = {b: self._recomputed(b) for b in range(blocks)} if first else {}
        grads: list[int | None] = [None] * slices
        for b in range(blocks):
            rows = made.get(b) or self._recomputed(b)
            grads = [self._differentiated(b, rows, s, grads[s]) for s in range(slices)]

    @property
    def graph(self) -> UnitGraph:
        return UnitGraph(self.units, self.inputs, self.results)

    def _recomputed(self, block: int) -> list[list[int]]:
        return [self._chain(block, s) for s in range(self.slices)]

    def _chain(self, block: int, s: int) -> list[int]:
        chain: list[int] = []
        for launch in self.forward:
            after = {i: self.units[i].launch for i in [*chain[-1:], *self.common]}
            chain.append(self._unit(block, s, after, ACTIVATION, True, launch).index)
        self.inputs.append((SAVED, {chain[0], chain[-1]}))
        return chain

    def _differentiated(
        self, block: int, rows: list[list[int]], s: int, grad: int | None
    ) -> int | None:
        for place, launch in enumerate(self.backward):
            needed = rows[s][max(0, len(rows[s]) - 1 - place)]
            after = {i: self.units[i].launch for i in (needed, grad) if i is not None}
            grad = self._unit(block, s, after, ACTIVATION, False, launch).index
            weight = self._unit(block, s, after, GRADIENT, False).index
            self.results.add(weight)
        return grad

    def _unit(
        self,
        block: int,
        s: int | None,
        after: dict[int, bool],
        size: int,
        recomputed: bool,
        launch: bool = False,
    ) -> Unit:
        unit = Unit(len(self.units), [], launch, 7.0 if launch else 5.0, out_bytes=size)
        unit.piece = None if s is None else Piece(s)
        unit.group = "tp" if launch else None
        unit.after, unit.after_wire = set(after), {i for i, wire in after.items() if wire}
        unit.recomputed = recomputed
        self.block[unit.index] = block if unit.index not in getattr(self, "common", ()) else 0
        self.units.append(unit)
        return unit


kinds = st.lists(st.booleans(), min_size=1, max_size=4)
stacks = st.builds(
    Stack,
    st.integers(2, 6),
    st.integers(1, 3),
    kinds.map(lambda found: [False, *found]),
    kinds.map(lambda found: [False, *found]),
    st.booleans(),
    st.booleans(),
)
caps = st.sampled_from([0.0, 1.0, 1.05, 100.0])


@examples(150)
@given(stacks, caps)
def test_recomputation_is_at_most_one_block_ahead(stack: Stack, cap: float) -> None:
    graph = stack.graph
    plan = schedule_units(graph, run_order(graph).peak_bytes * cap)
    reached = -1
    for index in plan.order:
        if not graph.units[index].recomputed:
            reached = max(reached, stack.block[index])
        assert stack.block[index] <= reached + 1, plan.order


@examples(50)
@given(stacks)
def test_the_late_order_is_one(stack: Stack) -> None:
    units = stack.graph.units
    order = late_order(stack.graph, stages_of(units))
    place = {index: position for position, index in enumerate(order)}
    assert sorted(order) == list(range(len(units)))
    assert all(place[i] < place[u.index] for u in units for i in u.after)


def test_memory_grows_by_what_is_saved_and_not_by_what_is_recomputed() -> None:
    for first in (True, False):
        peaks = []
        for blocks in (4, 8):
            stack = Stack(blocks, 2, [False, False, True, False], [False, True], first, True)
            peaks.append(schedule_units(stack.graph, 0.0).peak_bytes)
        assert peaks[1] - peaks[0] <= 4 * 2 * (SAVED + 2 * GRADIENT)


# Found at random: without less recomputation ahead, compute waits for all collectives of the first
# two, and for most of the third's.
@pytest.mark.parametrize(
    ("forward", "backward", "sizes"),
    [
        ([False, False, False, True], [False, False, False], [20, 4, 1, 20]),
        ([False, True, False, True, False, False], [False] * 4, [10, 1, 4, 10, 1, 20]),
        ([False, True, False, True, False], [False] * 4, [4, 1, 4, 20, 10]),
    ],
)
def test_collectives_hide_where_memory_is_short(
    forward: list[bool], backward: list[bool], sizes: list[int]
) -> None:
    stack = Stack(4, 2, forward, backward, False, False)
    made: Counter[tuple[int, Piece | None]] = Counter()
    for unit in stack.units:
        if unit.recomputed:
            whose = stack.block[unit.index], unit.piece
            unit.out_bytes = sizes[made[whose]]
            made[whose] += 1
    late = run_order(stack.graph, late_order(stack.graph, stages_of(stack.units)))
    plan = schedule_units(stack.graph, late.peak_bytes)
    assert plan.peak_bytes <= late.peak_bytes
    assert plan.stall_us < 0.6 * late.stall_us
