"""Graphs in which sizes depend on data are proved at sizes that the program allows."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
import torch.nn.functional as F
from torch import nn

import domino_compile
from tests.ranks.float8 import Copy, Reduce
from tests.report.one_rank import one_of_two

WIDTH = 16


class Block(nn.Module):
    """A tensor-parallel gated MLP on some of the tokens, between two on all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.around = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.gate, self.up, self.down = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.whole(0, x)
        tokens = x.reshape(-1, WIDTH)
        chosen = (tokens[:, 0] > 0).nonzero().squeeze(1)
        some = tokens[chosen]
        h = F.silu(self.gate(Copy.apply(some))) * self.up(Copy.apply(some))  # type: ignore[no-untyped-call]
        made = torch.zeros_like(tokens).index_add(0, chosen, Reduce.apply(self.down(h)))  # type: ignore[no-untyped-call]
        return self.whole(1, x + made.view_as(x)).square().sum()

    def whole(self, number: int, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = x + Reduce.apply(self.around[number](Copy.apply(x)))  # type: ignore[no-untyped-call]
        return made


def exchanged(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Each rank sends as many rows as it likes."""
    gate = (x[:, 0] > 0).long()
    counts = torch.stack([(gate == i).sum() for i in (0, 1)])
    theirs = funcol.all_to_all_single(counts, None, None, dist.group.WORLD)
    sent, received = counts.tolist(), theirs.tolist()
    for size in (*sent, *received):
        torch._check(size >= 0)
    order = gate.argsort(stable=True)
    got = funcol.all_to_all_single_autograd(x[order], received, sent, dist.group.WORLD)
    y = funcol.all_to_all_single_autograd(got @ weight, sent, received, dist.group.WORLD)
    back = torch.zeros_like(x).index_copy(0, order, y)
    reduced: torch.Tensor = Reduce.apply(back @ weight)  # type: ignore[no-untyped-call]
    return reduced


@pytest.fixture(autouse=True)
def ranks() -> Iterator[None]:
    captured = {"capture_dynamic_output_shape_ops": True, "capture_scalar_outputs": True}
    with one_of_two(), torch._dynamo.config.patch(captured):
        yield


def report(program: object, *inputs: torch.Tensor, **cut: object) -> domino_compile.CompileReport:
    cut = cut or {"slices": 2, "batch": {"x": 0}}
    options = {"lowering": "eager", "verify": "strict", **cut}
    domino_compile.explain(program, *inputs, options=options)  # type: ignore[arg-type]
    return domino_compile.reports()[-1]


def test_products_of_chosen_tokens_are_merged_and_the_others_cut() -> None:
    found = report(Block(), torch.randn(4, 8, WIDTH))
    actions = [c.action for c in found.collectives]
    assert found.status == "sliced"
    assert actions.count("merged") == 2 and actions.count("sliced") == 3


def test_rows_that_each_rank_sends_as_it_likes_are_proved() -> None:
    x = torch.randn(8, WIDTH, requires_grad=True)
    found = report(exchanged, x, torch.randn(WIDTH, WIDTH, requires_grad=True))
    assert found.status != "inductor"
    assert "left alone" in {c.action for c in found.collectives}


def test_columns_of_products_of_chosen_tokens_are_cut() -> None:
    found = report(Block(), torch.randn(4, 8, WIDTH), slices=1, columns=2)
    assert found.status == "sliced"
    assert {c.action for c in found.collectives} <= {"merged", "sliced"}


def test_columns_of_rows_that_each_rank_sends_as_it_likes_are_cut() -> None:
    x = torch.randn(8, WIDTH, requires_grad=True)
    weight = torch.randn(WIDTH, WIDTH, requires_grad=True)
    found = report(exchanged, x, weight, slices=1, columns=2)
    assert found.status == "sliced"
    cut = {c.kind for c in found.collectives if c.action == "sliced"}
    assert cut == {"all_reduce", "all_to_all_single"}
