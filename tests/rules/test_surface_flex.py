"""FlexAttention as models use it, with torch's own implementation: cut through and through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._higher_order_ops.flex_attention import flex_attention as flex_operation
from torch._higher_order_ops.flex_attention import flex_attention_backward
from torch.nn.attention import flex_attention as flex_module
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import domino_compile
from domino_compile.analysis import CutPlan, infer_cut
from domino_compile.axes import Chunks
from domino_compile.graph.collectives import find_sites
from tests.rules.capturing import capture, copy_to, fake_group, largest_error, reduce_from
from tests.rules.harness import OVERRIDES

B, S, HEADS, D = 4, 16, 2, 8


@pytest.fixture(autouse=True)
def _set_up(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Float64, torch's own operations, and gradients on a CPU, which only its kernels lack."""
    fake_group()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(flex_module, "_validate_device", lambda *_: None)
    monkeypatch.delitem(OVERRIDES, flex_operation)
    monkeypatch.delitem(OVERRIDES, flex_attention_backward)
    yield
    torch.set_default_dtype(before)


class Layer(nn.Module):
    """Norm, attention, all-reduce."""

    def __init__(
        self, score_mod: Any = None, groups: int = 1, width: int = D, fused: bool = True
    ) -> None:
        super().__init__()
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, width, bias=False)
        self.sizes = (width, width // groups, width // groups)
        parts = (sum(self.sizes),) if fused else self.sizes
        self.qkv = nn.ModuleList(nn.Linear(width, part) for part in parts)
        self.score_mod = score_mod

    def forward(self, x: torch.Tensor, mask: Any) -> torch.Tensor:
        y = copy_to(self.norm(x))
        heads = lambda t: t.unflatten(-1, (-1, x.shape[-1] // HEADS)).transpose(1, 2)  # noqa: E731
        parts = [linear(y) for linear in self.qkv]
        q, k, v = map(heads, parts[0].split(self.sizes, -1) if len(parts) == 1 else parts)
        grouped = k.shape[1] < HEADS
        y = flex_attention(q, k, v, self.score_mod, mask, enable_gqa=grouped)
        return x + reduce_from(self.out(y.transpose(1, 2).flatten(2)))


class Two(nn.Module):
    """Two layers and a loss."""

    def __init__(self, score_mod: Callable[..., Any] | None = None, groups: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(score_mod, groups) for _ in range(2))

    def forward(self, x: torch.Tensor, mask: Any) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return x.square().mean()


def causal(b: Any, h: Any, i: Any, j: Any) -> Any:
    """Earlier keys only."""
    return i >= j


def documents(length: int = S) -> Callable[..., Any]:
    """Earlier keys of the same document; each row has its own documents."""
    starts = torch.arange(length)[None] >= torch.tensor([3, 5, 8, 12])[:, None]
    numbers = starts.to(torch.int32)
    return lambda b, h, i, j: (numbers[b, i] == numbers[b, j]) & (i >= j)


def parity(b: Any, h: Any, i: Any, j: Any) -> Any:
    """Every other row sees later keys as well."""
    return (i >= j) | (b % 2 == 0)


def distance(score: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
    """A bias by distance."""
    return score - (i - j) / (h + 1)


def blocks(mask_mod: Any, rows: int | None, length: int = S) -> Any:
    """The block mask of a function, with a batch extent or without one."""
    return create_block_mask(
        mask_mod, rows, None, length, length, device="cpu", BLOCK_SIZE=length // 2
    )


@pytest.mark.parametrize(
    ("mask", "rows", "score_mod", "groups"),
    [(causal, None, None, 1), (documents, B, distance, 2)],
    ids=["causal", "documents, bias, grouped"],
)
def test_cut_through_and_through(mask: Any, rows: Any, score_mod: Any, groups: int) -> None:
    function = documents() if mask is documents else mask
    x = torch.rand(B, S, D, generator=torch.Generator().manual_seed(0))
    captured = capture(Two(score_mod, groups), x, blocks(function, rows))
    plan = captured.plan()
    assert isinstance(plan, CutPlan), plan
    assert plan.analysis.batch == B
    assert plan.analysis.inner_joins() == [], plan.analysis.refusals
    sites = [site.launch for site in find_sites(captured.graph)]
    assert plan.analysis.sliced_collectives() == sites and len(sites) == 4
    want = captured.run(captured.graph)
    for chunks in (plan.chunks, Chunks(B, (1, 2, 1))):
        got = captured.run(captured.sliced(CutPlan(chunks, plan.analysis)))
        assert largest_error(want, got) < 1e-10


def test_a_mask_that_depends_on_the_row_itself_is_joined_around_and_named() -> None:
    x = torch.rand(B, S, D, generator=torch.Generator().manual_seed(0))
    captured = capture(Two(), x, blocks(parity, B))
    (given,) = [
        node
        for node in captured.graph.find_nodes(op="placeholder")
        if node.meta["val"].shape == x.shape
    ]
    plan = infer_cut(captured.graph, 2, {given: 0})
    assert isinstance(plan, CutPlan), plan
    reasons = {refusal.reason for refusal in plan.analysis.refusals.values()}
    assert any("mask_mod computes with the number of the batch row" in r for r in reasons), reasons
    want = captured.run(captured.graph)
    assert largest_error(want, captured.run(captured.sliced(plan))) < 1e-10


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="Inductor's kernel of FlexAttention needs AVX2",
)
def test_inductor_compiles_each_slice_with_its_own_mask() -> None:
    """What ``mask_mod`` captures is cut: each slice calls a function of its own shapes."""
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    width, length = 64, 256  # the least that Inductor's kernels for CPUs take
    # On CPUs torch 2.11 has no kernel for queries, keys and values in one buffer, and 2.13 none for
    # those of separate products.
    model = Layer(distance, width=width, fused=torch.__version__ >= "2.13")
    mask = blocks(documents(length), B, length)
    x = torch.rand(B, length, width)
    with torch.no_grad():
        want = torch.compile(model, backend="eager", dynamic=False)(x, mask)
        torch._dynamo.reset()
        # The tests' kernels have no vectors; this template cannot be without.
        options = {"slices": 3, "check_ranks": False, "inductor": {"cpp.simdlen": None}}
        got = torch.compile(model, backend="domino", options=options, dynamic=False)(x, mask)
    assert domino_compile.reports()[-1].collectives[0].action == "sliced"
    assert torch.allclose(want, got, atol=1e-6)
