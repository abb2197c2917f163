"""Measured flights and products, named by plans where the counts agree."""

from __future__ import annotations

from dataclasses import replace

import pytest

from domino_compile.report import CollectiveReport, CompileReport, ScheduleReport, Step, WireReport
from domino_compile.tools.profiling.planned import named_by_plan
from domino_compile.tools.timelines import Span, Timeline
from domino_compile.tools.timelines.spans import COMPUTE, WIRE


def wire(name: str, slice_: int | None, origin: str = "all_reduce") -> WireReport:
    return WireReport(
        name, "all_reduce", "tp", slice_, 8, 1.0, 1.0, source=f"at {name}", origin=origin
    )


def schedule(phase: str, *wires: WireReport, products: int = 0) -> ScheduleReport:
    steps = [Step("matmul", f"mm_{n}", n, 0, 1, source="mlp") for n in range(products)]
    return ScheduleReport(phase, [], list(wires), 1.0, 1.0, 0, 0, steps=steps)


def report(graph: int) -> CompileReport:
    return CompileReport(
        graph,
        collectives=[
            CollectiveReport("all_reduce", "all_reduce", "tp", 2, 8, "x.py:1", "forward", "sliced")
        ],
        schedules=[
            schedule("forward", wire(f"f{graph}_s0", 0), wire(f"f{graph}_s1", 1), products=2),
            schedule("backward", wire(f"b{graph}", None, "all_reduce_9")),
        ],
        uncut=schedule("uncut", wire("all_reduce", None, ""), wire("other", None, "")),
    )


def measured(flights: int, kind: str = "all_reduce", products: int = 0) -> Timeline:
    spans = [Span(WIRE, f"{kind} {n}", kind, n, n + 0.5) for n in range(flights)]
    spans += [Span(COMPUTE, f"{kind} 1", "wait", 1.2, 1.5)]
    spans += [Span(COMPUTE, "mm", "gemm", n, n + 0.5) for n in range(products)]
    return Timeline("t", 0, True, False, tuple(spans))


def flights(line: Timeline) -> list[tuple[str, str, int | None]]:
    return [(s.phase, s.collective, s.slice) for s in line.spans if s.lane == WIRE]


def test_forwards_in_order_then_backwards_in_the_opposite_one() -> None:
    line = named_by_plan(measured(6), [report(0), report(1)])
    assert flights(line) == [
        ("forward", "0:all_reduce", 0),
        ("forward", "0:all_reduce", 1),
        ("forward", "1:all_reduce", 0),
        ("forward", "1:all_reduce", 1),
        ("backward", "1:all_reduce_9", None),
        ("backward", "0:all_reduce_9", None),
    ]
    assert line.spans[0].source == "at f0_s0" and line.spans[0].group == "tp"
    wait = next(s for s in line.spans if s.kind == "wait")
    assert (wait.collective, wait.slice) == ("0:all_reduce", 1)


def test_micro_batches_repeat_the_plan() -> None:
    line = named_by_plan(measured(6), [report(0)])
    assert flights(line)[:3] == flights(line)[3:]


@pytest.mark.parametrize("line", [measured(4), measured(3, "all_gather"), measured(0)])
def test_another_count_or_kind_names_nothing(line: Timeline) -> None:
    assert named_by_plan(line, [report(0)]) == line


def test_products_are_named_by_themselves() -> None:
    line = named_by_plan(measured(4, products=2), [report(0)])
    products = [s for s in line.spans if s.kind == "gemm"]
    assert [(s.phase, s.slice, s.source) for s in products] == [
        ("forward", 0, "mlp"),
        ("forward", 1, "mlp"),
    ]
    assert all(collective == "" for _, collective, _ in flights(line))


def test_kernels_between_products_of_one_slice_have_its_colour() -> None:
    """Between slices 0 and 1 nobody knows whose a kernel is, if the plan has kernels of both."""

    def step(kind: str, slice_: int) -> Step:
        return Step(kind, kind, slice_, 0, 1)

    steps = [
        *(step("matmul", 0), step("fused", 0), step("attention", 0), step("matmul", 0)),
        *(step("fused", 0), step("fused", 1), step("matmul", 1), step("matmul", 1)),
    ]
    planned = ScheduleReport("forward", [], [], 1.0, 1.0, 0, 0, steps=steps)
    kinds = ["host", "gemm", "pointwise", "host", "attention", "host", "gemm", "pointwise",
             "gemm", "wait", "host", "gemm", "host"]  # fmt: skip
    spans = tuple(Span(COMPUTE, kind, kind, n, n + 1) for n, kind in enumerate(kinds))
    line = Timeline("t", 0, True, False, spans)
    named = named_by_plan(line, [CompileReport(0, schedules=[planned])])
    assert [s.slice for s in named.spans] == (
        [None, 0, 0, 0, 0, 0, 0, None, 1, None, 1, 1, None]
    )  # fmt: skip
    assert {s.phase for s in named.spans if s.slice is not None} == {"forward"}
    other = replace(line, spans=(*spans[:6], *spans[7:]))  # one product is missing
    named = named_by_plan(other, [CompileReport(0, schedules=[planned])])
    assert {s.kind for s in named.spans if s.slice is not None} == {"attention"}


def test_the_baseline_is_named_by_the_graph_as_it_was_found() -> None:
    line = named_by_plan(measured(2), [report(0)], uncut=True)
    assert flights(line) == [("forward", "0:all_reduce", None), ("", "0:other", None)]
    assert named_by_plan(measured(4), [report(0), report(1)], uncut=True) == measured(4)


def two_groups(*spans: tuple[str, float, float], kind: str = "all_reduce") -> Timeline:
    """Flights with their groups, begins and ends."""
    flown = (Span(WIRE, f"{n}", kind, a, b, group) for n, (group, a, b) in enumerate(spans))
    return Timeline("t", 0, True, False, tuple(flown))


def planned_in_two() -> CompileReport:
    """A1 and A2 of the group tp, then B of dp."""
    wires = [wire("A1", 0, "A"), wire("A2", 1, "A"), replace(wire("B", None, "B"), group="dp")]
    return CompileReport(0, schedules=[schedule("forward", *wires)])


def test_two_groups_are_each_in_order() -> None:
    """A1 holds up A2, not B, which is launched last."""
    line = two_groups(("tp", 0, 10), ("dp", 2, 12), ("tp", 10, 20))
    named = named_by_plan(line, [planned_in_two()])
    assert [s.source for s in named.spans] == ["at A1", "at B", "at A2"]
    assert [c for _, c, _ in flights(named)] == ["0:A", "0:B", "0:A"]


@pytest.mark.parametrize(
    "line",
    [
        two_groups(("tp", 0, 10), ("dp", 2, 12), ("dp", 12, 20)),  # another count in each
        two_groups(("tp", 0, 1), ("tp", 1, 2), ("tp", 2, 3), ("tp", 3, 4), ("dp", 4, 5)),
        two_groups(("tp", 0, 1), ("tp", 1, 2), ("pp", 2, 3)),  # one that no plan has
        two_groups(("", 0, 10), ("", 2, 12), ("", 10, 20)),  # whose is which?
        two_groups(("stream 7", 0, 10), ("stream 9", 2, 12), ("stream 7", 10, 20)),
        two_groups(("stream 5", 0, 1), ("stream 7", 1, 2), ("stream 9", 2, 3)),
        two_groups(("tp", 0, 1), ("tp", 1, 2), ("dp", 2, 3), kind="all_gather"),
    ],
)
def test_what_two_groups_leave_open_is_not_named(line: Timeline) -> None:
    assert named_by_plan(line, [planned_in_two()]) == line


@pytest.mark.parametrize("told", ["", "stream 7"])
def test_flights_that_tell_no_group_are_in_order_one_after_the_other(told: str) -> None:
    line = named_by_plan(two_groups((told, 0, 1), (told, 1, 2), (told, 2, 3)), [planned_in_two()])
    assert [s.source for s in line.spans] == ["at A1", "at A2", "at B"]


def test_flights_of_another_group_than_the_plans_are_not_named() -> None:
    line = two_groups(("dp", 0, 1), ("dp", 1, 2), ("dp", 2, 3))
    assert named_by_plan(line, [report(0)]) == line
