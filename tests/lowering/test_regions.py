"""Nested compile regions and compiled autograd: every collective is planned once, and reported."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from torch import nn

import domino_compile
from domino_compile.backend import domino
from tests.agreement.programs import Block, batch

OPTIONS: dict[str, Any] = {"lowering": "eager", "slices": 2}


class Region(Block):
    @torch.compiler.nested_compile_region
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.__version__ >= "2.12":
            return super().forward(x)
        # Torch 2.11 alone fails (`KeyError: example_value`) when it compares two regions that hold
        # an `autograd.Function` around a collective. This has the same value and gradients.
        y = self.down(nn.functional.gelu(self.up(x)))
        summed = funcol.all_reduce(y.detach(), "sum", dist.group.WORLD)
        return x + y + (summed - y.detach())


@pytest.fixture(autouse=True)
def ranks() -> Iterator[None]:
    torch._dynamo.reset()
    domino_compile.reset_reports()
    torch.manual_seed(0)
    with domino_compile.fake_ranks(2):
        yield
    torch._dynamo.reset()
    assert not dist.is_initialized()


def gradients(model: nn.Module, run: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
    model.zero_grad()
    run(batch(6)).square().sum().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("lowering", ["eager", "inductor"])
def test_nested_regions_are_cut_once_and_all_of_them_are_reported(lowering: str) -> None:
    model = nn.Sequential(Region(), Region(), Region())
    compiled = torch.compile(
        model, backend=domino, options={**OPTIONS, "lowering": lowering, "verify": "strict"}
    )
    torch.testing.assert_close(gradients(model, compiled), gradients(model, model))
    names = [w.name for r in domino_compile.reports() for s in r.schedules for w in s.wires]
    assert "all_reduce_s0" in names and "all_reduce_s1" in names
    assert not any(name.count("_s") > 1 for name in names), names
    found = [len(r.collectives) for r in domino_compile.reports()]
    assert found == [1, 1]  # the region's, and the one of the block that calls it


@torch._dynamo.config.patch(compiled_autograd=True)
def test_the_eager_lowering_takes_what_compiled_autograd_captures() -> None:
    model = nn.Sequential(Block(), Block())
    wanted = gradients(model, model)
    model.zero_grad()
    loss = torch.compile(model, backend=domino, options=OPTIONS)(batch(6)).square().sum()
    torch.compile(lambda x: x.backward(), backend=domino, options=OPTIONS)(loss)
    torch.testing.assert_close([p.grad for p in model.parameters()], wanted)
    assert domino_compile.reports()[0].status == "sliced"


def test_overlap_that_is_required_and_missing_is_an_error() -> None:
    """One block has nothing to hide its collective under; the program is never run."""
    options = {**OPTIONS, "require": "overlap"}
    compiled = torch.compile(Block(), backend=domino, options=options)
    for _ in range(2):
        with pytest.raises(domino_compile.OverlapError, match="not hidden; the first"):
            compiled(batch(6))


def test_a_graph_without_tensor_parallelism_has_nothing_to_be_required() -> None:
    model = nn.Linear(16, 16)
    compiled = torch.compile(model, backend=domino, options={"require": "overlap"})
    torch.testing.assert_close(compiled(batch(6)), model(batch(6)))
