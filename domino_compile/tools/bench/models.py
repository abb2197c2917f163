"""The benchmarked models, written once and divided among ranks by a style."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from domino_compile.tools.bench.checkpointing import Checkpointing
from domino_compile.tools.bench.shapes import ModelShape
from domino_compile.tools.bench.styles import (
    Boundary,
    CollectTokens,
    DivideTokens,
    Layers,
    Parallel,
    column,
    entrance,
    parallelize_block,
    parallelize_ends,
    row,
)

#: Causal attention on ``(batch, heads, seq, head_dim)``.
Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
#: Replaces layers of a block, in place.
Convert = Callable[[nn.Module], None]


def causal_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Compute causal attention with torch's operator."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Block(nn.Module):
    """The common part of both kinds of blocks: the layout of heads, and attention."""

    layers: Layers

    def __init__(self, shape: ModelShape, parallel: Parallel, dropout: float) -> None:
        super().__init__()
        self.dropout, self.head_dim = dropout, shape.head_dim
        self.tokens_first = parallel.style.tokens_first
        self.enter_attention, self.enter_ffn = entrance(parallel), entrance(parallel)
        self.attention: Attention = causal_attention

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        """Reshape ``(..., width)`` to ``(..., heads of this rank, head_dim)``."""
        heads: torch.Tensor = x.unflatten(-1, (-1, self.head_dim))
        return heads

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Compute attention of values from ``heads``; return ``(..., width of this rank)``."""
        order = (1, 2, 0, 3) if self.tokens_first else (0, 2, 1, 3)
        back = (2, 0, 1, 3) if self.tokens_first else (0, 2, 1, 3)
        mixed = self.attention(*(value.permute(order) for value in (q, k, v)))
        return mixed.permute(back).flatten(2)

    def drop(self, x: torch.Tensor) -> torch.Tensor:
        """Apply residual dropout."""
        return F.dropout(x, self.dropout, self.training)


class GPTBlock(Block):
    """LayerNorm, fused qkv, causal attention, GELU, residual dropout."""

    layers = Layers(columns=("qkv", "up"))

    def __init__(self, shape: ModelShape, parallel: Parallel, dropout: float) -> None:
        super().__init__(shape, parallel, dropout)
        width = shape.heads * shape.head_dim
        self.norm1, self.norm2 = nn.LayerNorm(shape.hidden), nn.LayerNorm(shape.hidden)
        self.qkv = column(shape.hidden, 3 * width, True, parallel)
        self.out = row(width, shape.hidden, True, parallel)
        self.up = column(shape.hidden, shape.ffn, True, parallel)
        self.down = row(shape.ffn, shape.hidden, True, parallel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the residual stream after this block."""
        qkv = self.qkv(self.enter_attention(self.norm1(x)))
        mixed = self.attend(*(self.heads(part) for part in qkv.chunk(3, -1)))
        x = x + self.drop(self.out(mixed))
        inner = F.gelu(self.up(self.enter_ffn(self.norm2(x))), approximate="tanh")
        return x + self.drop(self.down(inner))


class LlamaBlock(Block):
    """RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

    layers = Layers(columns=("q", "k", "v", "gate", "up"))

    def __init__(self, shape: ModelShape, parallel: Parallel, dropout: float) -> None:
        super().__init__(shape, parallel, dropout)
        self.repeats = shape.heads // shape.kv_heads
        self.norm1, self.norm2 = (nn.RMSNorm(shape.hidden, 1e-5) for _ in range(2))
        width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q = column(shape.hidden, width, False, parallel)
        self.k, self.v = (column(shape.hidden, kv_width, False, parallel) for _ in range(2))
        self.q_norm, self.k_norm = (
            nn.RMSNorm(shape.head_dim, 1e-6) if shape.qk_norm else nn.Identity() for _ in range(2)
        )
        self.out = row(width, shape.hidden, False, parallel)
        self.gate, self.up = (column(shape.hidden, shape.ffn, False, parallel) for _ in range(2))
        self.down = row(shape.ffn, shape.hidden, False, parallel)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Return the residual stream after this block; ``rotated`` explains the angles."""
        y = self.enter_attention(self.norm1(x))
        q = rotated(self.q_norm(self.heads(self.q(y))), cos, sin)
        k = rotated(self.k_norm(self.heads(self.k(y))), cos, sin)
        v = self.heads(self.v(y))
        if self.repeats > 1:
            k, v = (value.repeat_interleave(self.repeats, 2) for value in (k, v))
        x = x + self.drop(self.out(self.attend(q, k, v)))
        y = self.enter_ffn(self.norm2(x))
        inner = F.silu(self.gate(y)) * self.up(y)
        return x + self.drop(self.down(inner))


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply rotary positions to queries or keys.

    Args:
        x: The values, ``(batch, seq, heads, head_dim)`` or ``(seq, batch, heads, head_dim)``.
        cos: The cosines, ``(seq, 1, head_dim / 2)`` or ``(seq, 1, 1, head_dim / 2)``.
        sin: The sines of the same angles.
    """
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class Model(nn.Module):
    """A stack of blocks, a norm, and a loss.

    Without ``head`` it maps hidden states and a direction, both ``(batch, seq, hidden)``, to the
    product of the normalised result with that direction, over the square root of the number of
    elements. The gradient of that loss at the last norm is the direction itself. (The mean of
    squares, for example, would not work: a norm makes it constant, and its gradient is rounding
    noise.) Without a direction it returns the normalised result. With ``head`` it maps tokens and
    labels ``(batch, seq)`` to the cross entropy; embedding and head are the same on all ranks. All
    shapes are ``(seq, batch, ...)`` if the style has tokens first.

    ``begin``, ``run_block`` and ``finish`` are the parts of ``forward``, for compiling them
    separately. Angles are rounded to ``dtype``, even if the model has been converted to a wider
    type since.
    """

    def __init__(
        self,
        shape: ModelShape,
        layers: int,
        parallel: Parallel,
        dropout: float,
        head: bool,
        checkpointing: Checkpointing,
        dtype: torch.dtype,
        convert: Convert,
    ) -> None:
        super().__init__()
        self.shape, self.parallel, self.checkpointing = shape, parallel, checkpointing
        self.dtype = dtype
        block: type[Block] = GPTBlock if shape.kind == "gpt" else LlamaBlock
        self.embedding = nn.Embedding(shape.vocabulary, shape.hidden) if head else None
        self.divide = Boundary(parallel, None, DivideTokens)
        self.blocks = nn.ModuleList(self._divided(block, dropout, convert) for _ in range(layers))
        norm = nn.LayerNorm if shape.kind == "gpt" else nn.RMSNorm
        self.norm = norm(shape.hidden, 1e-5)
        self.collect = Boundary(parallel, None, CollectTokens)
        self.head = nn.Linear(shape.hidden, shape.vocabulary, bias=False) if head else None

    def _divided(self, kind: type[Block], dropout: float, convert: Convert) -> Block:
        """Return a converted block, and keep only this rank's part of it in memory."""
        block = kind(self.shape, self.parallel, dropout)
        convert(block)
        if self.parallel.mesh is not None:
            divide_tokens = self.parallel.style.divides_tokens
            parallelize_block(block, self.parallel.mesh, block.layers, divide_tokens)
        return block

    def forward(self, x: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        """Return the loss, a float32 scalar (float64 for a float64 model), or the output."""
        x, *angles = self.begin(x)
        for block in self.blocks:
            x = self.run_block(block, x, *angles)
        return self.finish(x, target)

    def begin(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the residual stream before the first block, and the blocks' other arguments."""
        if self.embedding is not None:
            x = self.embedding(x)
        angles = () if self.shape.kind == "gpt" else self._angles(x)
        return self.divide(x), *angles

    def run_block(self, block: nn.Module, *args: torch.Tensor) -> torch.Tensor:
        """Run one block, checkpointed if the model is."""
        return self.checkpointing.run(block, *args)

    def finish(self, x: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Run the part after the last block."""
        x = self.collect(self.norm(x))
        if target is None:
            return x
        if self.head is None:
            wide = torch.promote_types(x.dtype, torch.float32)
            loss: torch.Tensor = (x.to(wide) * target.to(wide)).sum() / x.numel() ** 0.5
            return loss
        logits = self.head(x)
        wide = torch.promote_types(logits.dtype, torch.float32)
        return F.cross_entropy(logits.to(wide).flatten(0, 1), target.flatten())

    def _angles(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        half, first = self.shape.head_dim // 2, self.parallel.style.tokens_first
        steps = torch.arange(half, device=x.device, dtype=torch.float32)
        places = torch.arange(x.shape[0 if first else 1], device=x.device, dtype=torch.float32)
        angles = (places[:, None] * 10000 ** (-steps / half))[:, None, :]
        if first:
            angles = angles[:, None]
        cos, sin = angles.cos().to(self.dtype), angles.sin().to(self.dtype)
        return cos.to(x.dtype), sin.to(x.dtype)


def make_model(
    shape: ModelShape,
    layers: int,
    parallel: Parallel,
    *,
    dropout: float,
    head: bool,
    device: str,
    dtype: torch.dtype,
    checkpointing: Checkpointing = Checkpointing.NONE,
    convert: Convert = lambda block: None,
) -> Model:
    """Return a model with this rank's parameters, which depend on the seed.

    ``convert`` may replace the layers of each block before they are divided.

    Raises:
        BenchError: The dimensions cannot be divided among the ranks.
    """
    shape.divided_by(parallel.group.size())
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Model(*(shape, layers, parallel, dropout, head, checkpointing, dtype, convert))
    finally:
        torch.set_default_dtype(before)
    if parallel.mesh is not None and parallel.style.divides_tokens:
        parallelize_ends(model, parallel.mesh)
    return model
