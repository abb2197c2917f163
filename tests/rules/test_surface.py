"""Joint graphs of real models: what is cut, what is joined, and whether numbers agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from domino_compile.analysis import CutPlan
from domino_compile.axes import Chunks
from domino_compile.graph.collectives import find_sites
from tests.rules import models
from tests.rules.capturing import Captured, capture, copy_to, fake_group, largest_error, reduce_from
from tests.rules.models import GPT, HEADS, VOCAB, B, D, Llama, LlamaStyle, S, Style

f64 = torch.float64


@pytest.fixture(autouse=True, scope="module")
def _set_up() -> Any:
    fake_group()
    before = torch.get_default_dtype()
    torch.set_default_dtype(f64)
    yield
    torch.set_default_dtype(before)


def tokens(seed: int = 0, ignore: int = 0) -> torch.Tensor:
    """Token numbers; the first ``ignore`` of each row are -100."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.randint(VOCAB, (B, S), generator=generator)
    made[:, :ignore] = -100
    return made


def data(*shape: int) -> torch.Tensor:
    """Random numbers."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=f64)


def lengths() -> torch.Tensor:
    """A ``(B, S)`` mask of sequences of different lengths."""
    return torch.arange(S) < torch.tensor([S, S - 1, 3, 2])[:, None]


@dataclass(frozen=True)
class Model:
    """A model that must be cut through and through."""

    name: str
    make: Callable[[], tuple[Any, ...]]
    dropout: bool = False
    tolerance: float = 1e-10


def gpt(name: str, loss: Any = None, ignore: int = 0, extra: Any = None, **style: Any) -> Model:
    """A GPT-like model."""

    def make() -> tuple[Any, ...]:
        more = () if extra is None else (extra(),)
        return (GPT(Style(**style), loss), tokens(), tokens(1, ignore), *more)

    return Model(name, make)


def llama(name: str, **style: Any) -> Model:
    """A Llama-like model."""
    return Model(name, lambda: (Llama(LlamaStyle(**style)), tokens(), tokens(1)))


def smoothed(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Label smoothing and ignored positions."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=0.1)


def summed(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A sum, divided by hand by the number of valid positions."""
    total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    return total / (targets != -100).sum()


def each(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A loss per token, masked and averaged by hand; logits ``(B, V, S)``."""
    losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    mask = (targets != -100).to(losses.dtype)
    return (losses * mask).sum() / mask.sum()


def shifted(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The next token's loss, shifted inside (HF)."""
    logits, targets = logits[..., :-1, :].contiguous(), targets[..., 1:].contiguous()
    return F.cross_entropy(logits.view(-1, VOCAB), targets.view(-1))


def squared(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A mean squared error."""
    return F.mse_loss(logits, F.one_hot(targets, VOCAB).to(logits.dtype))


def binary(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A binary cross-entropy."""
    return F.binary_cross_entropy_with_logits(logits, F.one_hot(targets, VOCAB).to(logits.dtype))


class WithEmbedding(GPT):
    """A vocabulary-parallel embedding in front."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__(Style(layers=1), models.vocabulary_parallel)
        self.tokens = embedding


class PaddedGPT(GPT):
    """Masks made from a ``(B, S)`` one, as HF does."""

    def __init__(self, additive: bool) -> None:
        super().__init__(Style(layers=1))
        self.additive = additive

    def forward(self, tokens: Any, targets: Any, mask: Any = None) -> torch.Tensor:
        causal = torch.ones(S, S, dtype=torch.bool).tril()
        allowed = causal[None, None] & mask[:, None, None, :].to(torch.bool)
        if self.additive:
            allowed = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(f64).min)
        return super().forward(tokens, targets, allowed)


class Autocast(GPT):
    """Mixed precision."""

    def forward(self, *inputs: Any) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(*inputs)


class TorchAttention(nn.Module):
    """``nn.MultiheadAttention`` between our collectives."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(D), nn.Linear(D, D), nn.Linear(D, D)
        self.attention = nn.MultiheadAttention(D, HEADS, batch_first=batch_first)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = copy_to(self.norm(x))
        x = x + reduce_from(self.attention(y, y, y, need_weights=False)[0])
        return (x + reduce_from(self.down(F.relu(self.up(copy_to(x)))))).square().mean()


def low_precision(model: Callable[[], tuple[Any, ...]], name: str) -> Model:
    """Numbers can only agree to the precision of the format."""
    return Model(name, model, tolerance=0.05)


MODELS = [
    gpt("gpt"),
    gpt("gpt chunk", qkv="chunk", layers=1),
    gpt("gpt unbind", qkv="unbind", layers=1),
    gpt("gpt separate", qkv="separate", layers=1),
    gpt("gpt tanh, tied, dropout", gelu="tanh", tied=True, dropout=0.1, layers=1),
    gpt("gpt (S,B,H)", sequence_first=True),
    gpt("gpt (S,B,H) by hand", sequence_first=True, manual_attention=True, dropout=0.1, layers=1),
    gpt("gpt by hand", manual_attention=True, layers=1),
    gpt("gpt checkpointed", checkpointed=True, dropout=0.1),
    gpt("gpt padding_idx", padding=0, layers=1),
    gpt("float mask (S,S)", extra=lambda: data(S, S), layers=1),
    gpt("float mask (B,1,S,S)", extra=lambda: data(B, 1, S, S), layers=1),
    gpt("bool mask (B,1,S,S)", extra=lambda: data(B, 1, S, S) < 0.9, layers=1),
    gpt("bool mask (B,1,1,S)", extra=lambda: lengths()[:, None, None], layers=1),
    gpt("bool mask (1,1,S,S)", extra=lambda: torch.ones(1, 1, S, S).tril() > 0, layers=1),
    gpt("mask added by hand", extra=lambda: data(B, 1, S, S), manual_attention=True, layers=1),
    gpt("ignore_index", ignore=2, layers=1),
    gpt("label smoothing", smoothed, 2, layers=1),
    gpt("sum", summed, 2, layers=1),
    gpt("none", each, 2, layers=1),
    gpt("shifted", shifted, layers=1),
    gpt("z-loss", models.z_loss, layers=1),
    gpt("vocabulary-parallel loss", models.vocabulary_parallel, layers=1),
    gpt("mse", squared, layers=1),
    gpt("bce", binary, layers=1),
    Model(
        "masked embedding",
        lambda: (WithEmbedding(models.MaskedEmbedding()), tokens(), tokens(1)),
    ),
    Model(
        "indexed embedding",
        lambda: (WithEmbedding(models.ParallelEmbedding()), tokens(), tokens(1)),
    ),
    Model("HF bool mask", lambda: (PaddedGPT(False), tokens(), tokens(1), lengths())),
    Model("HF float mask", lambda: (PaddedGPT(True), tokens(), tokens(1), lengths().long())),
    llama("llama"),
    llama("llama complex", rope="complex", layers=1),
    llama("llama norm by hand", norm="hand", layers=1),
    llama("llama expand", groups="expand", layers=1),
    llama("llama enable_gqa", groups="enable_gqa", layers=1),
    low_precision(lambda: (Autocast(Style(layers=1)).float(), tokens(), tokens(1)), "autocast"),
    low_precision(lambda: (GPT(Style(layers=1)).bfloat16(), tokens(), tokens(1)), "gpt bf16"),
    low_precision(
        lambda: (Llama(LlamaStyle("real", "hand", layers=1)).bfloat16(), tokens(), tokens(1)),
        "llama bf16",
    ),
    Model("MultiheadAttention", lambda: (TorchAttention(True), data(B, S, D))),
    Model("MultiheadAttention (S,B,H)", lambda: (TorchAttention(False), data(S, B, D))),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_cut_through_and_through(model: Model) -> None:
    captured = capture(*model.make())
    plan = captured.plan()
    assert isinstance(plan, CutPlan), plan
    assert plan.analysis.batch == B
    assert plan.analysis.inner_joins() == [], plan.analysis.refusals
    sites = [site.launch for site in find_sites(captured.graph)]
    assert any(site.backward for site in find_sites(captured.graph))
    assert plan.analysis.sliced_collectives() == sites
    same_numbers(captured, plan, model.tolerance)


@pytest.mark.parametrize(
    "model",
    [
        lambda: (GPT(Style(dropout=0.1, layers=1), smoothed), tokens(), tokens(1, 2)),
        lambda: (GPT(Style(sequence_first=True, layers=1), models.z_loss), tokens(), tokens(1)),
    ],
    ids=["gpt", "gpt (S,B,H), z-loss"],
)
def test_dynamic_batch(model: Callable[[], tuple[Any, ...]]) -> None:
    module, *inputs = model()
    for value in inputs:
        torch._dynamo.mark_dynamic(value, 0)
    captured = capture(module, *inputs)
    plan = captured.plan(2)
    assert isinstance(plan, CutPlan), plan
    assert plan.chunks.dynamic
    assert plan.analysis.inner_joins() == [], plan.analysis.refusals
    same_numbers(captured, plan)


def same_numbers(captured: Captured, plan: CutPlan, tolerance: float = 1e-10) -> None:
    """The sliced graph computes what the whole one does."""
    chunks = plan.chunks if plan.chunks.dynamic else Chunks.even(B, 3)
    want = captured.run(captured.graph)
    got = captured.run(captured.sliced(CutPlan(chunks, plan.analysis)))
    assert largest_error(want, got) < tolerance
