"""A fault of our passes on a mesh of tensor- and data-parallel ranks, and under ``watch``."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from domino_compile import fake_ranks, reports, reset_reports
from domino_compile._compat.groups import funcol
from domino_compile.cost import CostModel
from domino_compile.errors import STRICT
from domino_compile.passes import slice as slicing
from domino_compile.report import CompileReport


class Mesh(nn.Module):
    """A tensor-parallel product, and statistics that data-parallel ranks share."""

    def __init__(self, tensor: dist.ProcessGroup, data: dist.ProcessGroup) -> None:
        super().__init__()
        self.up = nn.Linear(8, 16, bias=False)
        self.down = nn.Linear(16, 8, bias=False)
        self.tensor, self.data = tensor, data

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.relu(self.up(x))
        y = x + funcol.all_reduce(self.down(hidden), "sum", self.tensor)
        loss = y.square().mean()
        return loss, funcol.all_reduce(loss.detach(), "sum", self.data)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[dist.ProcessGroup, ...]]:
    monkeypatch.delenv(STRICT, raising=False)
    torch._dynamo.reset()
    reset_reports()
    with fake_ranks(4):
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
        yield mesh.get_group("tensor"), mesh.get_group("data")
    reset_reports()
    torch._dynamo.reset()


def compiled(groups: tuple[dist.ProcessGroup, ...], **options: object) -> CompileReport:
    model = Mesh(*groups)
    chosen = {"lowering": "eager", "slices": 2, **options}
    loss, _ = torch.compile(model, backend="domino", options=chosen)(torch.randn(4, 8))
    loss.backward()
    return reports()[-1]


def fail(*args: object, **kwargs: object) -> None:
    raise RuntimeError("out of luck")


@pytest.mark.parametrize("fault", [False, True])
def test_data_parallel_ranks_do_not_become_tensor_parallel(
    groups: tuple[dist.ProcessGroup, ...], fault: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault:
        monkeypatch.setattr(slicing, "slice_graph", fail)
    report = compiled(groups)
    assert (report.status == "inductor") is fault
    assert ("internal fault" in report.reason) is fault
    tensor, data = (group.group_name for group in groups)
    assert report.tensor_parallel_groups() == [tensor]
    assert {c.group: c.tensor_parallel for c in report.collectives} == {tensor: True, data: False}


@pytest.mark.parametrize("where", ["slicing", "cost model"])
def test_a_faulty_graph_trains_on_under_watch(
    groups: tuple[dist.ProcessGroup, ...],
    where: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if where == "slicing":
        monkeypatch.setattr(slicing, "slice_graph", fail)
    else:
        monkeypatch.setattr(CostModel, "__init__", fail)
    caplog.set_level(logging.ERROR, "domino_compile")
    model = Mesh(*groups)
    options = {"lowering": "eager", "slices": 2, "watch": 1}
    program = torch.compile(model, backend="domino", options=options)
    inputs = [torch.randn(4, 8) for _ in range(3)]
    expected = [model(x)[0] for x in inputs]
    found = []
    for x in inputs:  # every call would probe the link
        loss, _ = program(x)
        loss.backward()
        found.append(loss)
    torch.testing.assert_close(torch.stack(found), torch.stack(expected))
    assert reports()[-1].status == "inductor"
    assert "out of luck" in "".join(r.getMessage() for r in caplog.records)
