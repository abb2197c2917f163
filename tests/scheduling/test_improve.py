"""``scheduling.improve``: a faster order is valid, keeps to its memory, and is found again."""

from contextlib import AbstractContextManager
from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domino_compile.scheduling import Schedule, Unit, UnitGraph, improved, run_order, schedule_units
from domino_compile.scheduling import improve as module
from domino_compile.scheduling.simulate import Machine
from tests.passes.random_graphs import unit_graphs
from tests.profiles import examples

factors = st.sampled_from([0.0, 0.5, 1.0, 1.05, 2.0, 100.0])
windows = st.sampled_from([(4, 2), (8, 4), (32, 16)])


@st.composite
def slowed_graphs(draw: st.DrawFn) -> UnitGraph:
    """Graphs whose compute and collectives slow each other down, or keep their inputs."""
    graph = draw(unit_graphs())
    factor = st.sampled_from([1.0, 1.2, 2.0])
    units = [
        replace(
            unit,
            slowdown=draw(factor),
            keeps_input=unit.launch and draw(st.booleans()),
            regained=draw(st.sampled_from([0.0, 0.2])) if unit.launch else 0.0,
        )
        for unit in graph.units
    ]
    return replace(graph, units=units)


def with_window(sizes: tuple[int, int]) -> AbstractContextManager[object]:
    return mock.patch.multiple(module, WINDOW=sizes[0], TAIL=sizes[1])


@examples(200)
@given(slowed_graphs(), factors, windows)
def test_a_new_order_is_valid_faster_and_within_its_memory(
    graph: UnitGraph, factor: float, sizes: tuple[int, int]
) -> None:
    found = run_order(graph)
    cap = found.peak_bytes * factor
    with with_window(sizes):
        plan = improved(graph, found, cap)
        again = improved(graph, found, cap)
    place = {index: position for position, index in enumerate(plan.order)}
    assert sorted(plan.order) == list(range(len(graph.units)))
    assert all(place[i] < place[u.index] for u in graph.units for i in u.after | u.after_wire)
    assert plan.peak_bytes <= max(cap, found.peak_bytes)
    assert plan.total_us <= found.total_us
    assert plan == again == run_order(graph, plan.order)


@examples(300)
@given(slowed_graphs(), st.integers(0, 23), st.integers(1, 24))
def test_a_window_takes_the_time_and_memory_that_its_units_take(
    graph: UnitGraph, first: int, size: int
) -> None:
    first = min(first, len(graph.units) - 1)
    order = list(range(len(graph.units)))
    even = replace(graph, units=[replace(unit, slowdown=1.2) for unit in graph.units])
    machine = Machine(even)
    for index in order[:first]:
        machine.run(even.units[index])
    search = module._Search(even, cap_bytes=-1.0)
    with with_window((size, len(order))):
        window = module._Window(search, machine, order[first : first + 2 * size])
        over, took = window.price(range(window.movable))
    began = machine.now
    machine.peak = machine.live
    for index in order[first : first + 2 * size]:
        machine.run(even.units[index])
    assert took == pytest.approx(machine.end() - began)
    assert over * 2**20 == pytest.approx(machine.peak + 1)


def unit(
    index: int, cost: float, after: set[int], launch: bool = False, wire: set[int] | None = None
) -> Unit:
    group = "tp" if launch else None
    return Unit(index, [], launch, cost, group, None, after, wire or set())


def layers(count: int) -> UnitGraph:
    """A slice's long products beside another slice's collective, norm and next collective."""
    units = [unit(0, 10.0, set()), unit(1, 130.0, {0}, launch=True)]
    arriving = 1
    for _ in range(count):
        at = len(units)
        units += [
            unit(at, 100.0, {at - 1} if at > 2 else set()),  # the other slice's two products
            unit(at + 1, 100.0, {at}),
            unit(at + 2, 10.0, {arriving}, wire={arriving}),  # a norm
            unit(at + 3, 140.0, {at + 2}, launch=True),
            unit(at + 4, 20.0, {at + 3, at + 1}, wire={at + 3}),
            unit(at + 5, 130.0, {at + 4}, launch=True),
        ]
        arriving = at + 5
    return UnitGraph(units, [], set())


def test_short_work_behind_a_collective_does_not_wait_for_long_work() -> None:
    graph = layers(1)
    found = schedule_units(graph, 1e9)
    assert improved(graph, found, 1e9).total_us < 0.95 * found.total_us


def test_what_was_found_for_a_layer_is_used_for_all() -> None:
    def searched(count: int) -> tuple[int, Schedule, Schedule]:
        graph = layers(count)
        found = schedule_units(graph, 1e9)
        with mock.patch.object(
            module._Search, "_annealed", autospec=True, side_effect=module._Search._annealed
        ) as calls:
            plan = improved(graph, found, 1e9)
        return calls.call_count, found, plan

    few, *_ = searched(30)
    many, found, plan = searched(60)
    assert plan.total_us < 0.95 * found.total_us
    assert many <= few
