"""Why a collective is not cut: the operation that stops it, and only advice that helps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from domino_compile import explain, fake_ranks
from domino_compile.report.explanation import Row
from tests.rules.capturing import reduce_from


@pytest.fixture(autouse=True)
def _ranks() -> Iterator[None]:
    torch._dynamo.reset()
    with fake_ranks(2):
        yield
    assert not dist.is_initialized()


class Block(nn.Module):
    """A residual MLP, its second product's result all-reduced."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + reduce_from(self.down(F.gelu(self.up(x))))


class Normed(nn.Module):
    """Batch norm, and a scale that has nothing to do with it."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.norm = Block(), nn.BatchNorm1d(16)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.block(x).transpose(1, 2)).transpose(1, 2) * scale
        return (x - x.mean(0)).pow(2).mean()


class Cumulative(nn.Module):
    """An operation without a rule between two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Block(), Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = torch.cdist(x, x).sum() * 1e-3 + x.var(0)
        return self.second(x).pow(2).mean()


def rows(model: nn.Module, *inputs: torch.Tensor, **options: Any) -> tuple[Row, ...]:
    """What becomes of the collectives under some options."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    return explain(model, *inputs, options=options).rows


def normed(**options: Any) -> tuple[Row, ...]:
    return rows(Normed(), torch.rand(4, 5, 16), torch.ones(16), **options)


def test_the_reason_names_the_operation_and_the_input_that_are_concerned() -> None:
    (row,) = normed(slices=2)
    assert "aten.var_mean.correction" in row.reason and "self.norm(" in row.reason
    assert "x[0]" in row.reason and "scale[" not in row.reason
    assert "reduces over the cut dimension" in row.reason


def test_advice_that_is_followed_is_not_given_again() -> None:
    """Each option that is advised cuts the collective, and nothing advises to go back."""
    (row,) = normed(slices=2)
    assert "{'batch': {'x': 0}}" in row.advice and "{'columns': 2}" in row.advice
    for options in ({"slices": 2, "batch": {"x": 0}}, {"columns": 2}):
        (after,) = normed(**options)
        assert after.parts == 2
        assert "options=" not in after.advice


def test_a_collective_behind_what_stops_the_cut_says_so() -> None:
    found = rows(Cumulative(), torch.rand(4, 5, 16), slices=2, batch={"x": 0})
    first, second = (row for row in found if row.phase == "forward")
    assert first.parts == 2
    assert second.parts == 1
    assert "reduces over the cut dimension" in second.reason and "aten.var" in second.reason
    assert "columns" in second.advice and "slices" not in second.advice


def test_columns_are_not_advised_where_there_is_no_product() -> None:
    class Summed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (reduce_from(x.var(0)) * x).sum()

    found = rows(Summed(), torch.rand(4, 5, 16, requires_grad=True), slices=2)
    assert found and not any("columns" in row.advice for row in found)


def test_without_rows_columns_are_advised_if_they_can_be_cut() -> None:
    (row,) = rows(Block(), torch.rand(1, 16), slices=2)
    assert "{'columns': 2}" in row.advice
    (cut,) = rows(Block(), torch.rand(1, 16), columns=2)
    assert cut.parts == 2
