"""Two tiny language models, written as people write them, one layer kind each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.property.collectives import all_reduce, copy_to, group, reduce_from

VOCABULARY, WIDTH, HEADS, SEQUENCE = 32, 16, 2, 6


@dataclass(frozen=True)
class Style:
    """What varies between the tests."""

    layers: int = 1
    dropout: float = 0.0
    checkpointed: bool = False


def precise(x: torch.Tensor) -> torch.Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class GPTBlock(nn.Module):
    """LayerNorm, fused qkv, GELU, dropout; Megatron's f and g. ``(S, B, H)``."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH, bias=False)
        self.dropout = dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        on = group("tp")
        rows, batch, _ = x.shape
        qkv = self.qkv(copy_to(self.norm1(x), on)).view(rows, batch, HEADS, -1)
        q, k, v = (y.permute(1, 2, 0, 3) for y in qkv.chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).permute(2, 0, 1, 3)
        mixed = reduce_from(self.out(mixed.reshape(rows, batch, WIDTH)), on)
        x = x + F.dropout(mixed, self.dropout)
        inner = F.gelu(self.up(copy_to(self.norm2(x), on)), approximate="tanh")
        return x + F.dropout(reduce_from(self.down(inner), on), self.dropout)


class LlamaBlock(nn.Module):
    """RMSNorm, rotary positions, grouped-query attention, SwiGLU; funcol. ``(B, S, H)``."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(WIDTH, 1e-5), nn.RMSNorm(WIDTH, 1e-5)
        half = WIDTH // HEADS
        self.q, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(WIDTH, half, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(WIDTH, 24, bias=False) for _ in range(2))
        self.down = nn.Linear(24, WIDTH, bias=False)
        angles = torch.arange(SEQUENCE)[:, None] * 0.5 ** torch.arange(half // 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        return torch.cat((first * cos - second * sin, first * sin + second * cos), -1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        on = group("tp")
        y = self.norm1(x)
        q, k, v = (
            m(y).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)
            for m in (self.q, self.k, self.v)
        )
        k, v = (t.repeat_interleave(HEADS, 1) for t in (self.rotate(k), v))
        scores = self.rotate(q) @ k.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5
        future = torch.ones(SEQUENCE, SEQUENCE, dtype=torch.bool).triu(1)
        probabilities = precise(scores.masked_fill(future, float("-inf"))).softmax(-1)
        mixed = (probabilities.to(v.dtype) @ v).transpose(1, 2).flatten(2)
        x = x + all_reduce(self.out(mixed), on)
        y = self.norm2(x)
        return x + all_reduce(self.down(F.silu(self.gate(y)) * self.up(y)), on)


class Model(nn.Module):
    """Embedding, blocks, tied head, cross entropy that ignores some labels.

    Returns the loss and, as ``{"hidden": [...]}``, what each block made.
    """

    def __init__(self, block: Callable[[float], nn.Module], style: Style) -> None:
        super().__init__()
        self.style = style
        self.sequence_first = block is GPTBlock
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(SEQUENCE, WIDTH)
        self.blocks = nn.ModuleList([block(style.dropout) for _ in range(style.layers)])
        self.norm = nn.LayerNorm(WIDTH)

    def forward(
        self, tokens: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, list[torch.Tensor]]]:
        x = self.table(tokens) + self.positions(torch.arange(SEQUENCE))
        if self.sequence_first:
            x = x.transpose(0, 1).contiguous()
        x = F.dropout(x, self.style.dropout)
        hidden = [x]
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.style.checkpointed else block(x)
            hidden.append(x)
        x = self.norm(x)
        if self.sequence_first:
            x = x.transpose(0, 1)
        logits = F.linear(x, self.table.weight)
        loss = F.cross_entropy(precise(logits).flatten(0, 1), labels.flatten(), ignore_index=-1)
        return loss, {"hidden": hidden}


def make(kind: str, dtype: torch.dtype, seed: int = 0, style: Style | None = None) -> Model:
    """A model with seeded parameters; ``kind`` is ``gpt`` or ``llama``."""
    torch.manual_seed(seed)
    block = {"gpt": GPTBlock, "llama": LlamaBlock}[kind]
    model = Model(block, style or Style())
    for parameter in model.parameters():
        parameter.data.mul_(2.0)
    return model.to(dtype)


def data(batch: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and the next tokens, some of them to be ignored."""
    generator = torch.Generator().manual_seed(seed)
    stream = torch.randint(0, VOCABULARY, (batch, SEQUENCE + 1), generator=generator)
    labels = stream[:, 1:].clone()
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = -1
    return stream[:, :-1].contiguous(), labels
