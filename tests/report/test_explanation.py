"""What ``explain`` says of collectives, on a fake group."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import _functional_collectives as funcol
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import domino_compile
from domino_compile import Explanation, OverlapError, explain, fake_ranks
from domino_compile.ratio import change_text
from domino_compile.report.explanation import explanation_of
from domino_compile.tools.timelines import predicted
from tests.emitted.harness import VOCAB, Model
from tests.paths import FAST_LINK


@pytest.fixture(autouse=True)
def _ranks() -> Iterator[None]:
    torch._dynamo.reset()
    domino_compile.reset_reports()
    with fake_ranks(4):
        yield
    assert not dist.is_initialized()


def of(rows: int, **options: object) -> Explanation:
    torch._dynamo.reset()
    tokens = torch.randint(0, VOCAB, (rows, 8))
    return explain(Model(1), tokens, tokens, options={"link": FAST_LINK, "slices": 2, **options})


def test_every_collective_has_a_row_with_its_place() -> None:
    found = of(4)
    assert [(row.phase, row.module) for row in found.rows] == [
        ("forward", "blocks.0"), ("forward", "blocks.0"),
        ("backward", "blocks.0"), ("backward", "blocks.0"),
    ]  # fmt: skip
    assert all("harness.py" in row.source and row.ranks == 4 for row in found.rows)
    assert all(row.parts == 2 for row in found.rows)


def test_hidden_collectives_say_under_what() -> None:
    rows = [row for row in of(4).rows if row.status == "hidden"]
    assert rows
    assert all(row.exposed_us <= 0.05 * row.wire_us and row.hidden_under for row in rows)
    assert not any(row.reason or row.advice for row in rows)


def test_times_are_those_of_the_schedules() -> None:
    found = of(5, slices=3)
    (report,) = domino_compile.reports()
    wires = [wire for schedule in report.schedules for wire in schedule.wires]
    assert found.wire_us == pytest.approx(sum(wire.wire_us for wire in wires))
    assert found.exposed_us == pytest.approx(sum(wire.exposed_us for wire in wires))


def test_what_is_not_hidden_has_a_reason_and_advice() -> None:
    found = of(4, slices=1)
    exposed = [row for row in found.rows if row.status == "exposed"]
    assert exposed
    assert all(row.reason.startswith("slices=1") and "slices" in row.advice for row in exposed)
    with pytest.raises(OverlapError, match=r"blocks\.0.*slices=1") as caught:
        found.check()
    assert "\n" not in str(caught.value)


def test_require() -> None:
    slow = {"link": "demo-2"}
    tokens = torch.randint(0, VOCAB, (4, 8))
    with pytest.raises(OverlapError):
        explain(Model(1), tokens, tokens, options=slow, require="overlap")
    with pytest.raises(ValueError, match="overlap"):
        explain(Model(1), tokens, tokens, require="everything")


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.out = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.q(x)) * self.k(x))


def test_merged_collectives_are_said_to_be_and_their_sum_has_a_row() -> None:
    model = nn.Sequential(nn.Linear(16, 16), Attention())
    plan = {"1.q": ColwiseParallel(), "1.k": ColwiseParallel(), "1.out": RowwiseParallel()}
    parallelize_module(model, init_device_mesh("cpu", (4,)), plan)
    found = explain(model, torch.randn(4, 8, 16), options={"slices": 2})
    assert [row.status for row in found.rows].count("merged") == 2
    (made,) = [row for row in found.rows if "merged with it" in row.module]
    assert made.phase == "backward" and made.wire_us > 0 and made.parts == 2


def test_inference_graphs_are_explained() -> None:
    tokens = torch.randint(0, VOCAB, (4, 8))
    with torch.no_grad():
        found = explain(Model(1), tokens, tokens, options={"link": FAST_LINK})
    assert len(found.rows) == 2 and all(row.wire_us > 0 for row in found.rows)


def test_json_and_text() -> None:
    found = of(4)
    data = json.loads(found.to_json())
    assert data["predicted"] is True and len(data["collectives"]) == 4
    assert "Predicted (not measured)" in str(found) and "blocks.0" in str(found)


def test_terminal_json_log_and_timelines_say_the_same() -> None:
    """Every number comes from the schedules, not from the planner's estimates."""
    found = of(4, slices="auto")
    (report,) = domino_compile.reports()
    (graph,) = json.loads(found.to_json())["graphs"]
    before, after = predicted([report])
    assert graph["inductor_ms"] == pytest.approx(before.step_us / 1e3, rel=1e-3)
    assert graph["predicted_ms"] == pytest.approx(after.step_us / 1e3, rel=1e-3)
    assert graph["exposed_ms"] == pytest.approx(after.exposed_us / 1e3, abs=1e-3)
    assert graph["inductor_exposed_ms"] == pytest.approx(before.exposed_us / 1e3, abs=1e-3)
    assert graph["wire_ms"] == pytest.approx(after.wire_us / 1e3, rel=1e-3)
    change = change_text(graph["inductor_ms"], graph["predicted_ms"])
    assert change in report.summary() and change in graph["summary"] and change in str(found)


def test_the_basis_of_the_prediction_is_named() -> None:
    found = of(4, link="h200-nvlink-8", device="H200")
    (graph,) = json.loads(found.to_json())["graphs"]
    assert (graph["device"], graph["link"], graph["link_ranks"]) == ("H200", "h200-nvlink-8", 8)
    assert graph["group_ranks"] == [4]
    assert "8-rank table used for 4 ranks" in str(found)


def test_a_forced_cut_that_is_slower_says_so() -> None:
    found = of(4, slices=4, link="h200-nvlink-8", device="H200")
    (graph,) = found.graphs
    assert graph.times is not None and graph.times.slower
    assert "the cut that the options ask for is predicted" in str(found)
    assert "x slower" in graph.warning and graph.warning in str(found)
    assert not of(4, slices="auto").graphs[0].warning


def test_a_graph_left_to_inductor_has_inductors_exposed_times() -> None:
    found = of(4, slices="auto", device="H200", link="h200-nvlink-8", memory_cap=0.0, margin=0.99)
    (report,) = domino_compile.reports()
    left = explanation_of([replace(report, status="inductor", schedules=[])])
    assert left.exposed_us == left.uncut_exposed_us > 0
    assert all(row.exposed_us == row.uncut_exposed_us for row in left.rows)
    assert sum(row.exposed_us for row in left.rows) == pytest.approx(left.exposed_us, rel=1e-3)
    assert "as with Inductor alone" in str(left) and found.rows


class BackwardOnly(torch.autograd.Function):
    """Its gradient is a sum over the ranks; its value is not."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return funcol.all_reduce(grads[0], "sum", dist.group.WORLD)


class ColumnsOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(BackwardOnly.apply(self.first(x).relu()))


def test_a_phase_without_collectives_counts_before_and_after() -> None:
    explain(ColumnsOnly(), torch.randn(8, 16), options={"slices": 2, "link": FAST_LINK})
    (report,) = domino_compile.reports()
    assert [s.phase for s in report.schedules] == ["backward"] and report.uncut is not None
    forward = sum(s.end_us - s.start_us for s in report.uncut.steps if s.phase == "forward")
    times = report.times
    assert times is not None and forward > 0
    assert times.planned.step_us == pytest.approx(report.schedules[0].predicted_us + forward)
    before, after = predicted([report])
    assert after.step_us == pytest.approx(times.planned.step_us, rel=1e-3)
    assert {s.phase for s in after.spans} == {s.phase for s in before.spans}


def test_one_fake_group_at_a_time() -> None:
    with pytest.raises(RuntimeError, match="already"), fake_ranks(2):
        pass
    with pytest.raises(ValueError, match="at least 2"), fake_ranks(1):
        pass
