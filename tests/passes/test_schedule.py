"""``schedule``: for any graph a valid order, within its memory, never predicted slower."""

from dataclasses import replace
from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx

from domino_compile.passes.schedule import schedule_graph
from domino_compile.scheduling import (
    Schedule,
    Unit,
    UnitGraph,
    build_units,
    run_order,
    schedule_units,
    step_memory,
)
from tests.passes.costs import COSTS
from tests.passes.graphs import Builder, aten, random_inputs, run, same
from tests.passes.random_graphs import graphs, unit_graphs
from tests.profiles import examples

factors = st.sampled_from([0.0, 0.5, 1.0, 1.05, 2.0, 100.0])


def unit(index: int, cost: float, after: set[int], launch: bool = False, wire: int = -1) -> Unit:
    group = "tp" if launch else None
    return Unit(index, [], launch, cost, group, None, after, {wire} if wire >= 0 else set())


@examples(300)
@given(unit_graphs(), factors)
def test_any_schedule_keeps_the_invariants(graph: UnitGraph, factor: float) -> None:
    own = run_order(graph)
    cap = own.peak_bytes * factor
    plan = schedule_units(graph, cap)
    place = {index: position for position, index in enumerate(plan.order)}
    assert sorted(plan.order) == list(range(len(graph.units)))
    assert all(place[i] < place[u.index] for u in graph.units for i in u.after)
    assert plan.peak_bytes <= max(cap, own.peak_bytes)
    assert plan.total_us <= own.total_us
    assert plan == schedule_units(graph, cap)
    check_times(graph, plan)


def check_times(graph: UnitGraph, plan: Schedule) -> None:
    by_unit = {s.unit: s for s in plan.occupancies}
    for busy in plan.occupancies:
        needed = graph.units[busy.unit].after_wire
        assert all(by_unit[i].end_us <= busy.start_us for i in needed)
    computing = sum(u.cost_us for u in graph.units if not u.launch)
    wires = [s for s in plan.occupancies if s.wire]
    assert abs(plan.compute_us - computing) < 1e-6
    assert abs(plan.compute_us + plan.stall_us - plan.total_us) < 1e-6
    assert all(0 <= plan.exposed_us(s) <= s.end_us - s.start_us + 1e-6 for s in wires)
    # Compute stands still only for what is on some wire; two groups may be on theirs at once.
    exposed = sum(plan.exposed_us(s) for s in wires)
    assert exposed >= plan.stall_us - 1e-6
    if len({graph.units[s.unit].group for s in wires}) <= 1:
        assert abs(exposed - plan.stall_us) < 1e-6


@examples(100)
@given(graphs(), st.sampled_from([0.0, 0.05, 10.0]))
def test_a_reordered_graph_computes_the_same(graph: fx.Graph, memory_cap: float) -> None:
    inputs = random_inputs(graph)
    expected = run(graph, inputs)
    nodes = set(graph.nodes)
    schedule_graph(graph, COSTS, memory_cap)
    graph.lint()
    assert set(graph.nodes) == nodes
    assert same(run(graph, inputs), expected)


@examples(100)
@given(graphs(), st.sampled_from([0.0, 0.05]), st.integers(0, 500))
def test_a_step_needs_little_more_memory_than_in_the_graphs_own_order(
    graph: fx.Graph, memory_cap: float, held: int
) -> None:
    units = build_units(graph, COSTS)
    own = step_memory(graph, units.units, held).peak_bytes
    result = schedule_graph(graph, COSTS, memory_cap, held)
    ordered = [result.units.units[index] for index in result.after.order]
    assert result.memory == step_memory(graph, ordered, held)
    assert result.memory.peak_bytes <= own * (1 + memory_cap)


def test_an_order_that_does_not_fit_is_not_used() -> None:
    units = [
        unit(0, 10, set()),
        unit(1, 30, {0}, launch=True),
        unit(2, 20, {1}, wire=1),
        unit(3, 30, set()),
    ]
    graph = UnitGraph(units, [], set())
    own = run_order(graph)
    assert schedule_units(graph, 100).total_us < own.total_us
    assert schedule_units(graph, 100, lambda order: order == own) == own


def test_results_and_inputs_of_collectives_on_the_wire_are_in_memory() -> None:
    def peak(launched: Unit) -> int:
        made, other = unit(0, 10, set()), unit(2, 10, set())
        made.out_bytes, launched.out_bytes, other.out_bytes = 4, 8, 2
        used = unit(3, 10, {1, 2}, wire=1)
        return run_order(UnitGraph([made, launched, other, used], [], set())).peak_bytes

    in_place, gather = (unit(1, 30, {0}, launch=True) for _ in range(2))
    gather.keeps_input = True
    assert peak(in_place) == 8 + 2
    assert peak(gather) == 4 + 8 + 2


def contended(graph: UnitGraph, compute: float, wire: float, regained: float = 0.0) -> UnitGraph:
    units = [
        replace(u, slowdown=wire if u.launch else compute, regained=regained) for u in graph.units
    ]
    return replace(graph, units=units)


slower = st.sampled_from([1.0, 1.2, 1.5, 3.0])


@examples(100)
@given(unit_graphs(), slower, slower, slower)
def test_contention_only_costs_time(
    graph: UnitGraph, compute: float, wire: float, more: float
) -> None:
    plain, some, much = (
        run_order(contended(graph, *by))
        for by in ((1, 1), (compute, wire), (compute * more, wire * more))
    )
    assert plain.total_us <= some.total_us + 1e-6 <= much.total_us + 2e-6
    for plan in (some, much):
        by_unit = {busy.unit: busy for busy in plan.occupancies}
        for busy in plan.occupancies:
            needed = [by_unit[i].end_us for i in graph.units[busy.unit].after_wire]
            assert max(needed, default=0.0) <= busy.start_us + 1e-6
        for group in ("tp", "dp"):
            wires = [s for s in plan.occupancies if s.wire and graph.units[s.unit].group == group]
            for one, next_ in pairwise(sorted(wires, key=lambda s: s.end_us)):
                assert one.end_us <= next_.start_us + 1e-6
                assert one.end_us - one.start_us >= graph.units[one.unit].cost_us - 1e-6


@examples(100)
@given(unit_graphs(), st.sampled_from([0.1, 0.5, 0.9]))
def test_no_more_than_a_share_of_the_wait_is_regained(graph: UnitGraph, share: float) -> None:
    plain = run_order(graph)
    rested = run_order(contended(graph, 1.0, 1.0, share))
    assert rested.total_us <= plain.total_us + 1e-6
    assert rested.total_us >= plain.total_us - share * plain.stall_us - 1e-6
    late = run_order(contended(graph, 1.0, 1.0, -share))
    assert plain.total_us - 1e-6 <= late.total_us <= plain.total_us + share * late.stall_us + 1e-6


def test_a_collective_is_not_slowed_while_compute_waits_for_it() -> None:
    units = [
        unit(0, 30, set(), launch=True),
        unit(1, 20, set()),
        unit(2, 100, {0}, wire=0),
    ]
    units[0].slowdown, units[0].regained = 2.0, 0.5
    plan = run_order(UnitGraph(units, [], set()))
    # After 20 us beside compute 10 of 30 are done; the other 20 are waited for, and 10 regained.
    assert plan.stall_us == 20 and plan.total_us == 20 + 20 + 100 - 10
    assert plan.occupancies[0].end_us == 40


def test_the_end_of_the_last_collective_is_exposed() -> None:
    graph = UnitGraph([unit(0, 10, set()), unit(1, 30, {0}, launch=True)], [], set())
    plan = run_order(graph)
    assert (plan.total_us, plan.compute_us, plan.stall_us) == (40, 10, 30)
    assert plan.exposed_us(plan.occupancies[1]) == 30


def test_a_launch_that_needs_a_collective_stops_compute() -> None:
    units = [
        unit(0, 10, set()),
        unit(1, 30, {0}, launch=True),
        unit(2, 5, {1}, launch=True, wire=1),
        unit(3, 20, {0}),
    ]
    graph = UnitGraph(units, [], set())
    assert run_order(graph).total_us == 60
    assert schedule_units(graph, 100).order == (0, 1, 3, 2)


def test_compute_keeps_to_one_slice_until_its_launch() -> None:
    units = []
    for side in range(2):  # three products, of which the last leads to the launch soonest
        first = 5 * side
        units += [unit(first + i, 10 - i, set()) for i in range(3)]
        units.append(unit(first + 3, 10, {first, first + 1, first + 2}))
        units.append(unit(first + 4, 30, {first + 3}, launch=True))
    order = schedule_units(UnitGraph(units, [], set()), 100).order
    assert order == (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)


def test_a_greedy_order_that_is_slower_is_not_taken() -> None:
    # Keeping to the shorter segment first delays the long collective, the only one that matters.
    units = [
        unit(0, 10, set()),
        unit(1, 100, {0}, launch=True),
        unit(2, 9, set()),
        unit(3, 1, {2}, launch=True),
        unit(4, 50, {1}, wire=1),
    ]
    graph = UnitGraph(units, [], set())
    assert schedule_units(graph, 100) == run_order(graph)


def test_random_draws_keep_their_order() -> None:
    b = Builder()
    x = b.input("x", 4, 4)
    first = b.call(aten.rand.default, [4, 4], device=torch.device("cpu"))
    second = b.call(aten.rand.default, [4, 4], device=torch.device("cpu"))
    total = b.all_reduce(b.call(aten.mm.default, x, second))
    graph = b.output(b.call(aten.add.Tensor, total, first), first)
    schedule_graph(graph, COSTS, 10.0)
    drawn = [n for n in graph.nodes if n.target is aten.rand.default]
    assert drawn == [first, second]


def test_equal_graphs_give_equal_units() -> None:
    def names() -> list[list[str]]:
        b = Builder()
        x = b.input("x", 4, 4)
        parts = [b.all_reduce(b.call(aten.mm.default, x, x)) for _ in range(3)]
        graph = b.output(*(b.call(aten.relu.default, part) for part in parts))
        return [[n.name for n in u.nodes] for u in build_units(graph, COSTS).units]

    assert names() == names()
