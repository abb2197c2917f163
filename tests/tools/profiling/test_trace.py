"""Traces read as timelines: events as torch's profiler writes them, made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from domino_compile.emulate.trace import Record
from domino_compile.tools.profiling.account import (
    Account,
    GroupTime,
    account_of_records,
    account_of_timeline,
    typical,
)
from domino_compile.tools.profiling.trace import Trace, collective_name, timeline_of

MAIN, GLOO = 1, 2


def event(name: str, ts: float, dur: float, tid: int = MAIN, cat: str = "cpu_op") -> dict[str, Any]:
    return {"ph": "X", "name": name, "ts": 1000 + ts, "dur": dur, "tid": tid, "cat": cat}


def trace(*events: dict[str, Any], records: list[Record] | None = None) -> Trace:
    ordered = sorted(events, key=lambda e: float(e["ts"]))
    return Trace(ordered, 1000.0, 2000.0, MAIN, 50.0, records or [])


def spans(found: Trace, on_gpu: bool = False) -> list[tuple[str, str, float, float]]:
    line = timeline_of(found, "t", 0, False, on_gpu)
    return [(s.lane, s.kind, s.begin_us, s.end_us) for s in line.spans]


def record(launch: float, start: float, wire: float, exposed: float, late: float = 0) -> Record:
    """Times in microseconds after the step's begin."""
    end = start + wire
    begin_of_wait = end - exposed
    return Record(
        name="all_reduce",
        nbytes=8,
        group="tp",
        link="demo-2",
        ranks=2,
        wire_ms=wire / 1e3,
        launch_s=50 + launch / 1e6,
        start_s=50 + start / 1e6,
        end_s=50 + end / 1e6,
        done_s=50 + (begin_of_wait + exposed + late) / 1e6,
        exposed_ms=exposed / 1e3,
        late_ms=late / 1e3,
    )


def test_gloo_flights_waits_and_the_hosts_own_work() -> None:
    found = spans(
        trace(
            event("Torch-Compiled Region: 0/0", 0, 900),
            event("aten::mm", 100, 200),
            event("aten::empty", 150, 20),  # inside: not counted twice
            event("_c10d_functional::all_reduce_", 300, 20),
            event("c10d::allreduce_", 305, 10),
            event("gloo:all_reduce", 310, 300, tid=GLOO, cat="user_annotation"),
            event("graph_0_cpp_fused_add_0", 350, 100),
            event("_c10d_functional::wait_tensor", 460, 170),
            event("aten::mm", 640, 60),
        )
    )
    assert found == [
        ("compute", "other", 0, 100),
        ("compute", "gemm", 100, 300),
        ("compute", "other", 300, 350),
        ("wire", "all_reduce", 310, 610),
        ("compute", "pointwise", 350, 450),
        ("compute", "other", 450, 460),
        ("compute", "wait", 460, 630),
        ("compute", "other", 630, 640),
        ("compute", "gemm", 640, 700),
        ("compute", "other", 700, 1000),
    ]
    line = timeline_of(trace(event("aten::mm", 100, 200)), "t", 0, False, False)
    assert line.step_us == 1000 and line.compute_us == 1000


def test_a_collective_outside_graphs_waits_where_the_profiler_sees_nothing() -> None:
    found = spans(
        trace(
            event("c10d::allreduce_", 100, 50),
            event("gloo:all_reduce", 140, 360, tid=GLOO, cat="user_annotation"),
            event("aten::mm", 520, 100),
        )
    )
    assert ("compute", "wait", 150, 500) in found


def test_an_asynchronous_collective_outside_graphs_is_no_wait() -> None:
    found = spans(
        trace(
            event("c10d::allreduce_", 100, 50),
            event("gloo:all_reduce", 140, 360, tid=GLOO, cat="user_annotation"),
            event("aten::mm", 160, 100),
        )
    )
    assert all(kind != "wait" for _, kind, _, _ in found)


def test_a_wait_inside_an_operation_is_not_computing() -> None:
    """Outside graphs the first reader of a functional collective's result waits for it."""
    found = trace(
        event("aten::add", 100, 400),
        event("_c10d_functional::wait_tensor", 120, 300),
        event("aten::mm", 500, 100),
    )
    assert spans(found)[1:4] == [
        ("compute", "wait", 120, 420),
        ("compute", "pointwise", 420, 500),
        ("compute", "gemm", 500, 600),
    ]
    assert timeline_of(found, "t", 0, False, False).compute_us == 700


def test_small_operations_in_a_row_are_one_span() -> None:
    events = [event("aten::add_", 10 * n, 8) for n in range(50)]
    line = timeline_of(trace(*events, event("aten::mm", 600, 100)), "t", 0, False, False)
    names = [span.name for span in line.spans]
    assert names == ["50 operations, last aten::add_", "aten::mm", "host"]


def test_an_emulated_link_tells_flights_and_waits_itself() -> None:
    line = timeline_of(
        trace(
            event("aten::mm", 0, 400),
            event("_c10d_functional::wait_tensor", 500, 250),
            records=[record(400, 400, 300, exposed=200, late=50)],
        ),
        "t",
        0,
        True,
        False,
    )
    wire = next(span for span in line.spans if span.lane == "wire")
    wait, late = (next(s for s in line.spans if s.kind == kind) for kind in ("wait", "late"))
    assert (wire.begin_us, wire.end_us) == pytest.approx((400, 700), abs=0.1)
    assert (wait.begin_us, wait.end_us) == pytest.approx((500, 700), abs=0.1)
    assert (late.begin_us, late.end_us) == pytest.approx((700, 750), abs=0.1)
    assert wire.group == "tp" and wait.name == wire.name and line.emulated
    account = account_of_timeline(line, 1.0)
    assert account.exposed_ms == pytest.approx(0.2, abs=1e-3)
    assert account.compute_ms == pytest.approx(0.75, abs=1e-3)
    assert account.groups["tp"].collectives == 1


def test_kernels_of_a_gpu() -> None:
    def kernel(name: str, ts: float, dur: float, **said: Any) -> dict[str, Any]:
        return event(name, ts, dur, tid=7, cat="kernel") | {"args": said}

    found = trace(
        event("aten::mm", 0, 10),
        kernel("nvjet_hsh_128", 10, 300, stream=7),
        kernel(
            "ncclDevKernel_AllReduce_Sum_bf16_RING_LL",
            200,
            400,
            **{"Process Group Name": "3", "Collective name": "allreduce", "stream": 20},
        ),
        kernel("ncclDevKernel_ReduceScatter_Sum_bf16", 700, 100, stream=21),
        kernel("triton_poi_fused_add_0", 500, 50, stream=7),
    )
    line = timeline_of(found, "t", 1, False, True)
    assert [(s.lane, s.kind, s.group) for s in line.spans] == [
        ("compute", "gemm", ""),
        ("wire", "all_reduce", "3"),
        ("compute", "pointwise", ""),
        ("wire", "reduce_scatter", "stream 21"),
    ]
    account = account_of_timeline(line, 1.0)
    assert account.compute_ms == pytest.approx(0.35)
    assert account.wire_ms == pytest.approx(0.5)
    assert account.exposed_ms == pytest.approx(0.5 - 0.11 - 0.05)
    assert account.groups["3"].hidden_ms == pytest.approx(0.16)


def test_the_emulated_wires_kernels_are_named_by_their_records() -> None:
    def wire(ts: float) -> dict[str, Any]:
        return event("domino_emulated_wire", ts, 100, cat="kernel") | {"args": {"stream": 9}}

    line = timeline_of(trace(wire(0), records=[record(0, 0, 100, 0)]), "t", 0, True, True)
    assert [(s.kind, s.group) for s in line.spans] == [("all_reduce", "tp")]
    unknown = timeline_of(
        trace(wire(0), wire(200), records=[record(0, 0, 100, 0)]), "t", 0, True, True
    )
    assert {s.group for s in unknown.spans} == {"stream 9"}  # a count that differs names none


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ncclDevKernel_AllGather_RING_LL", "all_gather"),
        ("_reduce_scatter_base", "reduce_scatter"),
        ("all_gather_into_tensor", "all_gather"),
        ("allreduce", "all_reduce"),
        ("all_to_all_single", "all_to_all"),
        ("something", "something"),
    ],
)
def test_names_of_collectives(text: str, name: str) -> None:
    assert collective_name(text) == name


def test_accounts_of_records() -> None:
    found = account_of_records(
        [record(0, 0, 100, 60, late=10), record(50, 100, 100, 30)], step_ms=1.0
    )
    assert found.wire_ms == pytest.approx(0.2, abs=1e-4)
    assert found.exposed_ms == pytest.approx(0.1)  # late for one, while the other is in flight
    assert found.late_ms == pytest.approx(0, abs=1e-6)
    assert found.compute_ms == pytest.approx(0.9)
    assert found.collectives == 2


def test_what_is_late_is_not_exposed() -> None:
    found = account_of_records([record(0, 0, 100, 60, late=10)], step_ms=1.0)
    assert found.exposed_ms == pytest.approx(0.06)
    assert found.late_ms == pytest.approx(0.01)
    assert found.compute_ms + found.exposed_ms + found.late_ms == pytest.approx(1.0)


def test_accounts_and_timelines_share_one_definition_of_exposed() -> None:
    records = [record(0, 0, 100, 60, late=30), record(50, 300, 100, 30, late=5)]
    step = trace(event("aten::mm", 130, 200), records=records)
    line = timeline_of(step, "t", 0, True, on_gpu=False)
    found = account_of_records(records, 1.0)
    assert line.exposed_us / 1e3 == pytest.approx(found.exposed_ms)
    assert line.wire_us / 1e3 == pytest.approx(found.wire_ms, abs=1e-5)
    late = sum(s.end_us - s.begin_us for s in line.spans if s.kind == "late")
    assert late / 1e3 == pytest.approx(found.late_ms)


def test_a_typical_account_adds_up() -> None:
    steps = [Account(10 + n, 6 + n % 3, 3, 4 - n % 3 + n, late_ms=0.0) for n in range(7)]
    assert all(a.compute_ms + a.exposed_ms == a.step_ms for a in steps)
    found = typical(steps)
    assert found.step_ms == 13
    assert found.compute_ms + found.exposed_ms == pytest.approx(found.step_ms)


def test_a_typical_account_of_several_groups() -> None:
    one = Account(10, 6, 4, 3, groups={"a": GroupTime(2, 4, 3)})
    other = Account(10, 6, 6, 3, groups={"a": GroupTime(2, 3, 1), "b": GroupTime(1, 3, 1)})
    found = typical([one, other])
    assert found.groups == {"a": GroupTime(2, 3.5, 2), "b": GroupTime(0.5, 1.5, 0.5)}
