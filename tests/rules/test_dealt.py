"""Sequence parallelism: each slice scatters and gathers its own tokens, on two ranks in step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from domino_compile.analysis import CutPlan
from domino_compile.analysis.infer import infer_cut
from domino_compile.axes import Chunks
from domino_compile.graph.collectives import find_sites
from tests.rules.capturing import GROUP, Captured, c10d, capture, fake_group, largest_error
from tests.rules.harness import run
from tests.sequence_block import block as block_with

RANKS, S, H = 2, 8, 4


class Gather(torch.autograd.Function):
    """All-gather of tokens forward, reduce-scatter backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dim: int) -> torch.Tensor:
        ctx.dim = dim
        return gather(x, dim)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return scatter(grads[0], ctx.dim), None


class Scatter(torch.autograd.Function):
    """Reduce-scatter of tokens forward, all-gather backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dim: int) -> torch.Tensor:
        ctx.dim = dim
        return scatter(x, dim)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gather(grads[0], ctx.dim), None


def gather(x: torch.Tensor, dim: int) -> torch.Tensor:
    """As torch's functional collectives do it along another dimension than the first."""
    whole = c10d.wait_tensor(c10d.all_gather_into_tensor(x.contiguous(), RANKS, GROUP))
    if dim == 0:
        return whole
    return whole.unflatten(0, (RANKS, -1)).movedim(0, dim).flatten(dim, dim + 1)


def scatter(x: torch.Tensor, dim: int) -> torch.Tensor:
    if dim:
        x = torch.cat(x.chunk(RANKS, dim))
    return c10d.wait_tensor(c10d.reduce_scatter_tensor(x.contiguous(), "sum", RANKS, GROUP))


def block(x: Any, *weights: Any, dim: int) -> Any:
    """The block, with these collectives."""
    gathered, scattered = (lambda t: Gather.apply(t, dim)), (lambda t: Scatter.apply(t, dim))
    return block_with(x, *weights, gathered, scattered, dim)


def model(dim: int, between: Callable[[torch.Tensor], torch.Tensor] = lambda x: x) -> Any:
    """Embedding, scatter, a block with causal attention, the loss; tokens are dimension ``dim``."""

    def step(tokens: Any, table: Any, norm: Any, qkv: Any, out: Any, up: Any, down: Any) -> Any:
        x = F.embedding(tokens, table)
        x = between(Scatter.apply(x, dim))
        x = block(x, norm, qkv, out, up, down, dim=dim)
        logits = Gather.apply(F.rms_norm(x, (H,), norm), dim) @ table.t()
        return F.cross_entropy(logits.flatten(0, 1), tokens.flatten())

    return step


def captured(function: Any, dim: int) -> Captured:
    fake_group()
    generator = torch.Generator().manual_seed(0)
    shapes = [(16, H), (H,), (H, 3 * 8), (8, H), (H, 6), (6, H)]
    weights = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    tokens = torch.randint(0, 16, (1, S) if dim else (S, 1), generator=generator)
    return capture(function, tokens, *(w.requires_grad_() for w in weights))


def on_ranks(found: Captured, graph: Any) -> list[list[Any]]:
    """The results of each rank, whose weights differ in all but what ranks have in common."""
    ranks = [
        [x * (1 + 0.5 * rank) if x.shape[-1:] in ((24,), (6,)) else x for x in found.inputs]
        for rank in range(RANKS)
    ]
    torch.manual_seed(1)
    with torch.no_grad():
        return [[x for x in result if x is not None] for result in run(graph, ranks, found.owner)]


def compare(found: Captured, plan: CutPlan) -> None:
    """Losses are equal on each rank, gradients in the sum over the ranks."""
    want, got = on_ranks(found, found.graph), on_ranks(found, found.sliced(plan))
    for one, two in zip(want, got, strict=True):
        assert largest_error(one[:1], two[:1]) < 1e-12
    totals = [[sum(values) for values in zip(*ranks, strict=True)] for ranks in (want, got)]
    assert largest_error(*totals) < 1e-12


def planned(found: Captured, sizes: tuple[int, ...]) -> CutPlan:
    plan = infer_cut(found.graph, 2)
    assert isinstance(plan, CutPlan), plan
    return CutPlan(Chunks(plan.analysis.batch, sizes), plan.analysis)


@pytest.mark.parametrize("dim", [0, 1])
def test_slices_scatter_their_own_tokens(dim: int) -> None:
    found = captured(model(dim), dim)
    for sizes in ((2, 2), (3, 1), (1, 1, 2)):  # of pairs of tokens
        plan = planned(found, sizes)
        assert plan.analysis.unit == RANKS and plan.analysis.looks_back
        assert plan.analysis.inner_joins() == [], plan.analysis.refusals
        sites = [site.launch for site in find_sites(found.graph)]
        assert plan.analysis.sliced_collectives() == sites
        compare(found, plan)


def pinned(x: torch.Tensor) -> torch.Tensor:
    """Tells the tokens of a rank apart by their place."""
    return x * torch.arange(1, x.shape[0] * x.shape[1] + 1, dtype=x.dtype).view(*x.shape[:2], 1)


def mixed(x: torch.Tensor) -> torch.Tensor:
    """A cumulative sum over the tokens of a rank."""
    return x.cumsum(1 if x.shape[0] == 1 else 0)


def flipped(x: torch.Tensor) -> torch.Tensor:
    return x.flip(1 if x.shape[0] == 1 else 0)


def meaned(x: torch.Tensor) -> torch.Tensor:
    """A sum over the tokens of a rank that is used again."""
    return x - x.sum(dim=(0, 1), keepdim=True)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("between", [pinned, mixed, flipped, meaned])
def test_what_tells_tokens_apart_pins_their_ranks(between: Any, dim: int) -> None:
    found = captured(model(dim, between), dim)
    plan = infer_cut(found.graph, 2, {next(iter(found.graph.nodes)): dim})
    if not isinstance(plan, CutPlan):
        return
    cut = plan.analysis.sliced_collectives()
    assert len(cut) < len(find_sites(found.graph))
    compare(found, plan)


def test_the_gradient_of_a_graph_that_ends_with_a_scatter_is_cut() -> None:
    """An embedding alone: in backward the incoming gradient is gathered first."""
    fake_group()
    generator = torch.Generator().manual_seed(0)
    table = torch.randn((16, H), generator=generator, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(0, 16, (4, S), generator=generator)
    found = capture(lambda text, table: Scatter.apply(F.embedding(text, table), 1), tokens, table)
    plan = planned(found, (2, 2))
    sites = [site.launch for site in find_sites(found.graph)]
    assert len(sites) == 2 and plan.analysis.sliced_collectives() == sites
    assert plan.analysis.inner_joins() == []
    compare(found, plan)
