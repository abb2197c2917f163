"""Mixtures of experts, their router losses, conditionals, and the collectives of both."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
import torch.nn.functional as F
from torch import nn

import domino_compile
from domino_compile.analysis import CutPlan, infer_cut
from domino_compile.axes import Chunks
from domino_compile.graph.collectives import find_sites
from domino_compile.verify.check import Memory, check
from domino_compile.verify.part import NotEstablished
from tests.rules.capturing import (
    Captured,
    capture,
    copy_to,
    fake_group,
    largest_error,
    reduce_from,
)
from tests.verify.graphs import by_rows

B, S, D, EXPERTS, CHOSEN = 4, 6, 8, 4, 2
aten = torch.ops.aten


@pytest.fixture(autouse=True, scope="module")
def _set_up() -> Any:
    fake_group()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


class Experts(nn.Module):
    """Token choice: each token goes to the experts that its router likes best."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(D, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, D, 2 * D) / 4)
        self.down = nn.Parameter(torch.randn(EXPERTS, 2 * D, D) / 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = copy_to(x).flatten(0, 1)
        likes = self.router(rows).softmax(-1)
        weights, chosen = likes.topk(CHOSEN, -1)
        order = chosen.flatten().argsort(stable=True)
        sent = rows[order // CHOSEN]
        ends = F.one_hot(chosen.flatten(), EXPERTS).sum(0).cumsum(0).to(torch.int32)
        made = self.of_each(self.of_each(sent, ends, self.up).relu(), ends, self.down)
        made = made * weights.flatten()[order][:, None]
        y = torch.zeros_like(rows).index_add(0, order // CHOSEN, made)
        return x + reduce_from(y.view(x.shape)), balance(likes, chosen)

    def of_each(self, rows: torch.Tensor, ends: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """A grouped product in float64, which has no kernel: by the number of each row's expert."""
        expert = (torch.arange(rows.shape[0])[:, None] >= ends).sum(-1)
        return (rows[:, None] @ weight[expert]).squeeze(1)


def balance(likes: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """The load-balancing loss: a product of two means over all tokens."""
    share = F.one_hot(chosen, EXPERTS).to(likes.dtype).sum(1).mean(0)
    return EXPERTS * (share * likes.mean(0)).sum()


class Router(nn.Module):
    """Blocks of attention-free layers whose routers are watched."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.router, self.up, self.down = (
            nn.Linear(D, EXPERTS), nn.Linear(D, 2 * D), nn.Linear(2 * D, D),
        )  # fmt: skip
        self.loss = loss

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.router(x)
        x = x + reduce_from(self.down(self.up(copy_to(x)).relu())) * logits.softmax(-1).amax(
            -1, True
        )
        return x.square().mean() + self.loss(logits.flatten(0, 1))


def load_balancing(logits: torch.Tensor) -> torch.Tensor:
    """Of Switch: a product of means over all tokens."""
    likes = logits.softmax(-1)
    return balance(likes, likes.topk(CHOSEN, -1).indices)


def z_loss(logits: torch.Tensor) -> torch.Tensor:
    """A mean of squares."""
    return logits.logsumexp(-1).square().mean()


def variation(logits: torch.Tensor) -> torch.Tensor:
    """The squared coefficient of variation of the experts' importance."""
    importance = logits.softmax(-1).sum(0)
    return importance.var() / importance.mean().square()


def mutual_information(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of the mean less the mean of entropies."""
    likes = logits.softmax(-1)
    mean = likes.mean(0)
    return (likes * likes.log()).sum(-1).mean() - (mean * mean.log()).sum()


def batch() -> torch.Tensor:
    """Rows that differ much, so that a loss of each slice would be another number."""
    x = torch.randn(B, S, D, generator=torch.Generator().manual_seed(0))
    return x + 3 * torch.arange(B)[:, None, None]


def of_plan(captured: Captured) -> CutPlan:
    """The cut along the batch."""
    plan = captured.plan()
    assert isinstance(plan, CutPlan), plan
    assert plan.analysis.batch == B
    return plan


@pytest.mark.parametrize("loss", [load_balancing, z_loss, variation, mutual_information])
def test_a_router_loss_is_of_the_whole_batch(loss: Any) -> None:
    x = batch()
    captured = capture(Router(loss), x)
    plan = of_plan(captured)
    assert plan.analysis.inner_joins() == []
    want = captured.run(captured.graph)
    for chunks in (plan.chunks, Chunks(B, (1, 3)), Chunks(B, (2, 1, 1))):
        cut = captured.sliced(CutPlan(chunks, plan.analysis))
        assert largest_error(want, captured.run(cut)) < 1e-12
    # The test would notice a loss for each slice: it is another number.
    logits = nn.Linear(D, EXPERTS)(x)
    slices = [loss(part.flatten(0, 1)) for part in logits.chunk(2)]
    if loss is not z_loss:
        assert abs(sum(slices) / 2 - loss(logits.flatten(0, 1))) > 1e-3


def test_experts_are_joined_around_and_all_else_is_cut() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts, self.up, self.down = Experts(), nn.Linear(D, D), nn.Linear(D, D)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + reduce_from(self.down(self.up(copy_to(x)).relu()))
            y, loss = self.experts(x)
            return y.square().mean() + loss

    captured = capture(Net(), batch())
    plan = captured.plan(named=False)
    plan = named(captured)
    reasons = {str(n.target): r.reason for n, r in plan.analysis.refusals.items()}
    assert reasons["aten.sort.stable"] == "acts along the cut dimension"
    # The router itself is row by row.
    assert aten.topk.default in {n.target for n in plan.analysis.cuts}
    want = captured.run(captured.graph)
    assert largest_error(want, captured.run(captured.sliced(plan))) < 1e-12


def named(captured: Captured) -> CutPlan:
    """The cut along the first dimension of the batch, which is said to be that."""
    (given,) = [
        n for n in captured.graph.find_nodes(op="placeholder") if n.meta["val"].shape == (B, S, D)
    ]
    plan = infer_cut(captured.graph, 2, {given: 0})
    assert isinstance(plan, CutPlan), plan
    return plan


class Gated(nn.Module):
    """A layer that is skipped, or not, for the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(D, 2 * D), nn.Linear(2 * D, D)

    def forward(self, x: torch.Tensor, on: torch.Tensor) -> torch.Tensor:
        y = torch.cond(on, lambda y: self.up(y).relu(), lambda y: y.repeat(1, 1, 2), (copy_to(x),))
        return x + reduce_from(self.down(y))


class TwoGated(nn.Module):
    """Two of them, and a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Gated() for _ in range(2))

    def forward(self, x: torch.Tensor, on: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x, on)
        return x.square().mean()


@pytest.mark.parametrize("on", [True, False])
def test_conditionals_are_cut_in_forward_and_backward(on: bool) -> None:
    captured = capture(TwoGated(), batch(), torch.tensor(on))
    plan = of_plan(captured)
    assert plan.analysis.inner_joins() == [], plan.analysis.refusals
    sites = find_sites(captured.graph)
    assert len(sites) == 3  # the input needs no gradient
    assert plan.analysis.sliced_collectives() == [s.launch for s in sites]
    want = captured.run(captured.graph)
    for chunks in (plan.chunks, Chunks(B, (1, 2, 1))):
        cut = captured.sliced(CutPlan(chunks, plan.analysis))
        assert largest_error(want, captured.run(cut)) < 1e-12


def test_conditionals_of_real_sizes_are_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too large to be run as they are: the branches get the small sizes of the graph around."""
    monkeypatch.setattr(sys.modules[__name__], "D", 64)
    graph = capture(TwoGated(), torch.randn(8, 48, 64), torch.tensor(True)).graph
    before, after, witness = by_rows(graph)
    assert check(before, after, witness, Memory()).how
    branch = next(x for name, x in after.inner.items() if name.startswith("true_graph"))
    relu = next(op for op in branch.operations.values() if op.target == "aten.relu.default")
    branch.operations[relu.name] = replace(relu, target="aten.sigmoid.default")
    with pytest.raises(NotEstablished, match="its numbers differ"):
        check(before, after, witness, Memory())


def test_inductor_compiles_each_slice_with_its_own_branches() -> None:
    torch.manual_seed(0)
    model = TwoGated().float()
    x, on = batch().float(), torch.tensor(True)
    found = []
    # Not `eager`: with torch 2.11 it loses gradients of a function that returns a wait's result.
    strict = {"slices": 3, "check_ranks": False, "verify": "strict"}
    for backend, options in (("aot_eager", None), ("domino", strict)):
        torch._dynamo.reset()
        model.zero_grad()
        loss = torch.compile(model, backend=backend, options=options, dynamic=False)(x, on)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    report = domino_compile.reports()[-1]
    assert {entry.action for entry in report.collectives} == {"sliced"}
    for want, got in zip(*found, strict=True):
        assert torch.allclose(want, got, rtol=1e-4, atol=1e-5)


class Exchanged(nn.Module):
    """Features change places between the ranks, and several tensors travel together."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(D, 2 * D), nn.Linear(2 * D, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        group = dist.group.WORLD
        y = self.up(x).permute(2, 0, 1).contiguous()
        y = funcol.all_to_all_single_autograd(y, None, None, group).permute(1, 2, 0)
        y = self.down(y.relu())
        a, b = funcol.all_reduce_coalesced([y, y.sin()], "sum", group)
        return (x + a * b).square().mean()


def test_all_to_alls_of_features_and_coalesced_all_reduces_are_cut() -> None:
    captured = capture(Exchanged(), batch())
    plan = of_plan(captured)
    assert plan.analysis.inner_joins() == [], plan.analysis.refusals
    sites = find_sites(captured.graph)
    kinds = {"all_to_all_single", "all_reduce_coalesced"}
    assert {(s.kind, s.backward) for s in sites} == {(k, b) for k in kinds for b in (True, False)}
    assert plan.analysis.sliced_collectives() == [s.launch for s in sites]
    want = captured.run(captured.graph)
    cut = captured.sliced(CutPlan(Chunks(B, (1, 3)), plan.analysis))
    assert largest_error(want, captured.run(cut)) < 1e-12
