"""Small tensor-parallel models, as people write them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.rules.capturing import all_reduce_max, copy_to, reduce_from

B, S, D, HEADS, VOCAB = 4, 6, 16, 4, 19


@dataclass(frozen=True)
class Style:
    """What varies between GPT-like models."""

    qkv: str = "fused"
    gelu: str = "none"
    tied: bool = False
    dropout: float = 0.0
    sequence_first: bool = False
    mask: str = "causal"
    manual_attention: bool = False
    checkpointed: bool = False
    layers: int = 2
    padding: int | None = None


class Attention(nn.Module):
    """Multi-head attention with a fused or split projection."""

    def __init__(self, style: Style) -> None:
        super().__init__()
        self.style = style
        if style.qkv == "separate":
            self.q, self.k, self.v = (nn.Linear(D, D) for _ in range(3))
        else:
            self.qkv = nn.Linear(D, 3 * D)
        self.out = nn.Linear(D, D)

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.style.qkv == "separate":
            return self.q(x), self.k(x), self.v(x)
        if self.style.qkv == "chunk":
            return self.qkv(x).chunk(3, -1)
        if self.style.qkv == "unbind":
            return self.qkv(x).view(*x.shape[:2], 3, D).unbind(2)
        return self.qkv(x).split(D, -1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        q, k, v = (self.heads(t) for t in self.project(x))
        if self.style.manual_attention:
            scores = q @ k.transpose(-2, -1) / math.sqrt(D // HEADS)
            later = torch.ones(S, S, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
            if mask is not None:
                scores = scores + mask
            y = F.dropout(F.softmax(scores, -1), self.style.dropout) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        y = y.permute(2, 0, 1, 3) if self.style.sequence_first else y.transpose(1, 2)
        return reduce_from(self.out(y.reshape(x.shape)))

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        x = x.view(*x.shape[:2], HEADS, D // HEADS)
        return x.permute(1, 2, 0, 3) if self.style.sequence_first else x.transpose(1, 2)


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, style: Style) -> None:
        super().__init__()
        self.style = style
        self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(2))
        self.attention = Attention(style)
        self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        p = self.style.dropout
        x = x + F.dropout(self.attention(copy_to(self.norms[0](x)), mask), p)
        y = F.gelu(self.up(copy_to(self.norms[1](x))), approximate=self.style.gelu)
        return x + F.dropout(reduce_from(self.down(y)), p)


class GPT(nn.Module):
    """Token and learned position embeddings, blocks, a head, a loss."""

    def __init__(self, style: Style = Style(), loss: Callable[..., torch.Tensor] | None = None):
        super().__init__()
        self.style = style
        self.loss = loss or cross_entropy
        self.tokens = nn.Embedding(VOCAB, D, padding_idx=style.padding)
        self.positions = nn.Embedding(S, D)
        self.blocks = nn.ModuleList(Block(style) for _ in range(style.layers))
        self.norm = nn.LayerNorm(D)
        self.head = nn.Linear(D, VOCAB, bias=False)
        if style.tied:
            self.head.weight = self.tokens.weight

    def forward(self, tokens: Any, targets: Any, mask: torch.Tensor | None = None) -> torch.Tensor:
        if self.style.sequence_first:
            tokens, targets = tokens.t(), targets.t()
        positions = self.positions(torch.arange(S))
        x = self.tokens(tokens)
        x = x + (positions[:, None] if self.style.sequence_first else positions)
        x = F.dropout(x, self.style.dropout)
        for block in self.blocks:
            if self.style.checkpointed:
                x = checkpoint(block, x, mask, use_reentrant=False)
            else:
                x = block(x, mask)
        return self.loss(self.head(self.norm(x)), targets)


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The usual loss."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def z_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with a penalty on the normaliser."""
    return cross_entropy(logits, targets) + 1e-2 * logits.logsumexp(-1).square().mean()


def vocabulary_parallel(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Megatron's loss on a part of the vocabulary: rows 0 to ``VOCAB``."""
    logits = logits - all_reduce_max(logits.max(-1, keepdim=True).values)
    elsewhere = (targets < 0) | (targets >= VOCAB)
    local = targets.masked_fill(elsewhere, 0)
    picked = logits.gather(-1, local[..., None]).squeeze(-1)
    picked = reduce_from(picked.masked_fill(elsewhere, 0.0))
    total = reduce_from(logits.exp().sum(-1))
    return (total.log() - picked).mean()


class ParallelEmbedding(nn.Module):
    """A part of the vocabulary, looked up with a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(VOCAB, D))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        elsewhere = tokens >= VOCAB - 3
        local = torch.where(elsewhere, 0, tokens)
        found = F.embedding(local, self.weight)
        found[elsewhere] = 0.0
        return reduce_from(found)


class MaskedEmbedding(ParallelEmbedding):
    """The same, with a product in place of an indexed write."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        elsewhere = tokens >= VOCAB - 3
        found = F.embedding(tokens.masked_fill(elsewhere, 0), self.weight)
        return reduce_from(found.masked_fill(elsewhere[..., None], 0.0))


# -- Llama --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LlamaStyle:
    """What varies between Llama-like models."""

    rope: str = "real"
    norm: str = "functional"
    groups: str = "repeat_interleave"
    layers: int = 2


class RMSNorm(nn.Module):
    """Root-mean-square norm, by hand (computed in float32, as usual) or by torch."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.weight, self.kind = nn.Parameter(torch.ones(D)), kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "functional":
            return F.rms_norm(x, (D,), self.weight, 1e-6)
        wide = x.double() if x.dtype == torch.float64 else x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * wide.to(x.dtype)


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    """``(a, b)`` to ``(-b, a)``, by halves."""
    a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-b, a), -1)


class LlamaAttention(nn.Module):
    """Rotary positions, grouped queries."""

    def __init__(self, style: LlamaStyle) -> None:
        super().__init__()
        self.style = style
        self.q, self.out = nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=False)
        self.k, self.v = (nn.Linear(D, D // 2, bias=False) for _ in range(2))
        size = D // HEADS
        angles = torch.arange(S)[:, None] / 100 ** (torch.arange(0, size, 2) / size)
        self.register_buffer("angles", angles.to(torch.get_default_dtype()))

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        if self.style.rope == "complex":
            turn = torch.polar(torch.ones_like(self.angles), self.angles)
            pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
            return torch.view_as_real(pairs * turn).flatten(-2)
        both = torch.cat((self.angles, self.angles), -1)
        return x * both.cos() + rotate_half(x) * both.sin()

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        if self.style.groups == "enable_gqa":
            return x
        if self.style.groups == "expand":
            b, h, s, d = x.shape
            return x[:, :, None].expand(b, h, 2, s, d).reshape(b, 2 * h, s, d)
        return x.repeat_interleave(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, s, _ = x.shape
        split = lambda t: t.view(b, s, -1, D // HEADS).transpose(1, 2)  # noqa: E731
        q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
        q, k = self.rotate(q), self.rotate(k)
        grouped = self.style.groups == "enable_gqa"
        y = F.scaled_dot_product_attention(
            q, self.spread(k), self.spread(v), is_causal=True, enable_gqa=grouped
        )
        return reduce_from(self.out(y.transpose(1, 2).reshape(b, s, D)))


class LlamaBlock(nn.Module):
    """Attention and SwiGLU."""

    def __init__(self, style: LlamaStyle) -> None:
        super().__init__()
        self.norms = nn.ModuleList(RMSNorm(style.norm) for _ in range(2))
        self.attention = LlamaAttention(style)
        self.gate, self.up = (nn.Linear(D, 2 * D, bias=False) for _ in range(2))
        self.down = nn.Linear(2 * D, D, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(copy_to(self.norms[0](x)))
        y = copy_to(self.norms[1](x))
        return x + reduce_from(self.down(F.silu(self.gate(y)) * self.up(y)))


class Llama(nn.Module):
    """Embedding, blocks, norm, head, loss."""

    def __init__(self, style: LlamaStyle = LlamaStyle()) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, D)
        self.blocks = nn.ModuleList(LlamaBlock(style) for _ in range(style.layers))
        self.norm = RMSNorm(style.norm)
        self.head = nn.Linear(D, VOCAB, bias=False)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens)
        for block in self.blocks:
            x = block(x)
        return cross_entropy(self.head(self.norm(x)), targets)
