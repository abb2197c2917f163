"""The report of a real compile as text, and the parts of it that need no compile."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import _functional_collectives as funcol

from domino_compile import _compat, reports, reset_reports
from domino_compile.report import CollectiveReport, CompileReport, Join
from domino_compile.report.report_text import report_text
from tests.report.program import Model

Golden = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def one_of_two_ranks() -> Iterator[None]:
    _compat.start_fake_group(2)
    torch._dynamo.reset()
    reset_reports()
    yield
    dist.destroy_process_group()
    reset_reports()
    torch._dynamo.reset()


def compiled(model: nn.Module, x: Tensor, **options: object) -> CompileReport:
    chosen = {"lowering": "eager", "slices": 2, **options}
    torch.compile(model, backend="domino", options=chosen)(x).backward()
    return reports()[-1]


def test_a_sliced_graph(golden: Golden) -> None:
    report = compiled(Model(layers=1), torch.randn(5, 8))
    assert [entry.phase for entry in report.schedules] == ["forward", "backward"]
    golden("report/sliced.report.txt", report_text(replace(report, schedules=[])))
    assert "Predicted times" in report_text(report)


def test_one_slice_is_reordered_only(golden: Golden) -> None:
    report = compiled(Model(layers=1), torch.randn(5, 8), slices=1)
    golden("report/reordered.report.txt", report_text(replace(report, schedules=[])))
    assert report.schedules


class DataParallel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        loss = self.layer(x).mean()
        return loss + funcol.all_reduce(loss.detach(), "sum", dist.group.WORLD)


def test_a_collective_that_only_outputs_need_is_left_alone(golden: Golden) -> None:
    report = compiled(DataParallel(), torch.randn(4, 8))
    golden("report/left_alone.report.txt", report_text(report))
    assert report.status == "inductor"


def test_joins_name_operation_reason_and_line() -> None:
    join = Join("mul_3", "sort (aten.sort.default)", "acts along the cut dimension", "/a/m.py:3: s")
    text = report_text(CompileReport(0, status="sliced", slices=["2", "2"], joins=[join]))
    assert "  mul_3 for sort (aten.sort.default): acts along the cut dimension\n" in text
    assert "      m.py:3: s\n" in text


def test_equal_collectives_share_a_row() -> None:
    one = CollectiveReport("a", "all_reduce", "tp", 2, 2048, "unknown", "backward", "merged", "why")
    text = report_text(CompileReport(0, collectives=[one, replace(one, name="b")]))
    assert "  backward  2 x all_reduce  2.0 KiB  group tp (2 ranks)  merged\n      why\n" in text


@pytest.mark.parametrize(
    ("report", "summary"),
    [
        (CompileReport(3), "graph 3: left to Inductor alone; collectives: none"),
        (
            CompileReport(0, status="reordered", reason="slices=1: reordered only"),
            "graph 0: reordered, not sliced (slices=1: reordered only); collectives: none",
        ),
        (
            CompileReport(0, status="sliced", slices=["3", "2"]),
            "graph 0: sliced into rows 3+2; collectives: none",
        ),
    ],
    ids=lambda x: x.status if isinstance(x, CompileReport) else "",
)
def test_the_log_line(report: CompileReport, summary: str) -> None:
    assert report.summary() == summary
