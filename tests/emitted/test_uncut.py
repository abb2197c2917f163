"""What cannot be cut is reordered only or left to Inductor; one log line says which and why."""

import logging

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol

import domino_compile
from domino_compile.report import CompileReport
from tests.emitted.harness import SEQ, VOCAB, Model, fake_world

pytestmark = pytest.mark.xdist_group("compat")


def report_of(model: torch.nn.Module, *args: torch.Tensor, **options: object) -> CompileReport:
    torch._dynamo.reset()
    domino_compile.reset_reports()
    options = {"lowering": "eager", **options}
    torch.compile(model, backend="domino", options=options)(*args).sum().backward()
    (report,) = domino_compile.reports()
    return report


@pytest.mark.parametrize("slices", [2, 4])
def test_one_row_is_cut_into_tokens(slices: int) -> None:
    """Its attention is causal, so that a slice needs only the tokens before it."""
    fake_world()
    tokens = torch.randint(0, VOCAB, (1, SEQ))
    report = report_of(Model(1), tokens, tokens, slices=slices)
    assert report.status == "sliced" and report.tokens
    assert sum(map(int, report.slices)) == SEQ and len(report.slices) == slices
    assert {c.action for c in report.collectives} == {"sliced"}


def test_reordered_only(caplog: pytest.LogCaptureFixture) -> None:
    """One slice: reordered."""
    fake_world()
    tokens = torch.randint(0, VOCAB, (4, SEQ))
    with caplog.at_level(logging.INFO, logger="domino_compile"):
        report = report_of(Model(1), tokens, tokens, slices=1)
    assert report.status == "reordered"
    assert report.reason
    assert {c.action for c in report.collectives} == {"reordered"}
    assert {s.phase for s in report.schedules} == {"forward", "backward"}
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert len(lines) == 1
    assert report.reason in lines[0]


def test_more_slices_than_rows() -> None:
    """Three rows and four slices wanted: three slices."""
    fake_world()
    tokens = torch.randint(0, VOCAB, (3, SEQ))
    assert report_of(Model(1), tokens, tokens, slices=4).slices == ["1", "1", "1"]


def test_no_collective(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="domino_compile"):
        report = report_of(torch.nn.Linear(4, 4), torch.randn(3, 4))
    assert report.status == "inductor"
    assert len([r for r in caplog.records if r.levelno == logging.INFO]) == 1


class DataParallel(torch.autograd.Function):
    """Reduces a gradient over the ranks, as a data-parallel wrapper does inside the graph."""

    @staticmethod
    def forward(ctx: object, weight: torch.Tensor) -> torch.Tensor:
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
        return funcol.all_reduce(grad, "sum", dist.group.WORLD) / 2


class Linear(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, DataParallel.apply(self.weight), self.bias)


@pytest.mark.parametrize("watch", [0, 1])
def test_only_data_parallel(watch: int) -> None:
    """There is no plan, and so none to be made again for a link that changes."""
    fake_world()
    layers = torch.nn.Sequential(Linear(4, 4), Linear(4, 4))
    report = report_of(layers, torch.randn(6, 4), watch=watch)
    assert report.status == "inductor"
    assert len(report.collectives) == 2
    assert {c.action for c in report.collectives} == {"left alone"}
    assert all("tensor parallel" in c.reason for c in report.collectives)
    assert report.schedules == []
