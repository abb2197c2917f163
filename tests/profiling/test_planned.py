"""Measured flights and products, named by plans where the counts agree."""

from __future__ import annotations

import pytest

from domino_compile.profiling.planned import named_by_plan
from domino_compile.report import CollectiveReport, CompileReport, ScheduleReport, Step, WireReport
from domino_compile.timelines import Span, Timeline
from domino_compile.timelines.spans import COMPUTE, WIRE


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


def test_the_baseline_is_named_by_the_graph_as_it_was_found() -> None:
    line = named_by_plan(measured(2), [report(0)], uncut=True)
    assert flights(line) == [("forward", "0:all_reduce", None), ("", "0:other", None)]
    assert named_by_plan(measured(4), [report(0), report(1)], uncut=True) == measured(4)
