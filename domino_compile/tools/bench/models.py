"""The benchmarked models: written once, made tensor parallel by hand (Megatron) or by DTensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from domino_compile._compat.groups import funcol
from domino_compile.tools.bench.shapes import ModelShape

STYLES = ("megatron", "dtensor")


class CopyToTensorParallel(torch.autograd.Function):
    """In front of column-parallel layers: identity forward, all-reduce backward (Megatron's f)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        """Keep the group for backward."""
        ctx.group = group
        return x

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Sum the gradients of all ranks."""
        return funcol.all_reduce(grads[0], "sum", ctx.group), None


class ReduceFromTensorParallel(torch.autograd.Function):
    """Behind row-parallel layers: all-reduce forward, identity backward (Megatron's g)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        """Sum over all ranks."""
        del ctx
        summed: torch.Tensor = funcol.all_reduce(x, "sum", group)
        return summed

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Hand the gradient on."""
        del ctx
        return grads[0], None


def _apply(function: Any, *args: Any) -> torch.Tensor:
    """Call an ``autograd.Function`` (torch does not annotate ``apply``)."""
    result: torch.Tensor = function.apply(*args)
    return result


@dataclass(frozen=True)
class Parallel:
    """How a model's layers are divided.

    Attributes:
        style: ``megatron``: the layers hold this rank's part and f and g stand round them;
            ``dtensor``: the layers are whole and ``parallelize_module`` divides them.
        group: the tensor-parallel group.
    """

    style: str
    group: dist.ProcessGroup

    @property
    def ways(self) -> int:
        """Into how many parts a layer is divided where it is made."""
        return self.group.size() if self.style == "megatron" else 1

    def enter(self, x: torch.Tensor) -> torch.Tensor:
        """In front of column-parallel layers."""
        if self.style == "dtensor":
            return x
        return _apply(CopyToTensorParallel, x, self.group)

    def leave(self, x: torch.Tensor) -> torch.Tensor:
        """Behind a row-parallel layer."""
        if self.style == "dtensor":
            return x
        return _apply(ReduceFromTensorParallel, x, self.group)


class RowLinear(nn.Module):
    """A row-parallel layer written by hand: the bias is added once, behind the all-reduce."""

    def __init__(self, inner: int, outer: int, bias: bool, parallel: Parallel) -> None:
        super().__init__()
        self.parallel = parallel
        self.weight = nn.Parameter(torch.empty(outer, inner // parallel.ways))
        nn.init.normal_(self.weight, std=inner**-0.5)
        self.bias = nn.Parameter(torch.zeros(outer)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., inner of this rank)`` to ``(..., outer)``, summed over the ranks."""
        y = self.parallel.leave(F.linear(x, self.weight))
        return y if self.bias is None else y + self.bias


def _column(inner: int, outer: int, bias: bool, parallel: Parallel) -> nn.Linear:
    return nn.Linear(inner, outer // parallel.ways, bias=bias)


def _row(inner: int, outer: int, bias: bool, parallel: Parallel) -> nn.Module:
    if parallel.style == "megatron":
        return RowLinear(inner, outer, bias, parallel)
    return nn.Linear(inner, outer, bias=bias)


class GPTBlock(nn.Module):
    """LayerNorm, fused qkv, causal attention, GELU, residual dropout. ``(batch, seq, hidden)``."""

    COLUMNS = ("qkv", "up")
    ROWS = ("out", "down")

    def __init__(self, shape: ModelShape, parallel: Parallel, dropout: float) -> None:
        super().__init__()
        self.parallel, self.dropout, self.head_dim = parallel, dropout, shape.head_dim
        width = shape.heads * shape.head_dim
        self.norm1, self.norm2 = nn.LayerNorm(shape.hidden), nn.LayerNorm(shape.hidden)
        self.qkv = _column(shape.hidden, 3 * width, True, parallel)
        self.out = _row(width, shape.hidden, True, parallel)
        self.up = _column(shape.hidden, shape.ffn, True, parallel)
        self.down = _row(shape.ffn, shape.hidden, True, parallel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The residual stream in, the residual stream out."""
        qkv = self.qkv(self.parallel.enter(self.norm1(x)))
        q, k, v = (
            part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in qkv.chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        mixed = self.out(mixed.transpose(1, 2).flatten(2))
        x = x + F.dropout(mixed, self.dropout, self.training)
        inner = F.gelu(self.up(self.parallel.enter(self.norm2(x))), approximate="tanh")
        return x + F.dropout(self.down(inner), self.dropout, self.training)


class LlamaBlock(nn.Module):
    """RMSNorm, rotary positions, grouped-query attention, SwiGLU. ``(batch, seq, hidden)``."""

    COLUMNS = ("q", "k", "v", "gate", "up")
    ROWS = ("out", "down")

    def __init__(self, shape: ModelShape, parallel: Parallel, dropout: float) -> None:
        super().__init__()
        self.parallel, self.dropout, self.head_dim = parallel, dropout, shape.head_dim
        self.repeats = shape.heads // shape.kv_heads
        self.norm1, self.norm2 = (nn.RMSNorm(shape.hidden, 1e-5) for _ in range(2))
        width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q = _column(shape.hidden, width, False, parallel)
        self.k, self.v = (_column(shape.hidden, kv_width, False, parallel) for _ in range(2))
        self.q_norm, self.k_norm = (
            nn.RMSNorm(shape.head_dim, 1e-6) if shape.qk_norm else nn.Identity() for _ in range(2)
        )
        self.out = _row(width, shape.hidden, False, parallel)
        self.gate, self.up = (_column(shape.hidden, shape.ffn, False, parallel) for _ in range(2))
        self.down = _row(shape.ffn, shape.hidden, False, parallel)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        heads: torch.Tensor = x.unflatten(-1, (-1, self.head_dim))
        return heads

    def forward(self, x: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """The residual stream in, the residual stream out; ``angles``: cosines and sines."""
        y = self.parallel.enter(self.norm1(x))
        q = rotated(self.q_norm(self._heads(self.q(y))), *angles).transpose(1, 2)
        k = rotated(self.k_norm(self._heads(self.k(y))), *angles).transpose(1, 2)
        v = self._heads(self.v(y)).transpose(1, 2)
        if self.repeats > 1:
            k, v = (t.repeat_interleave(self.repeats, 1) for t in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        mixed = self.out(mixed.transpose(1, 2).flatten(2))
        x = x + F.dropout(mixed, self.dropout, self.training)
        y = self.parallel.enter(self.norm2(x))
        inner = F.silu(self.gate(y)) * self.up(y)
        return x + F.dropout(self.down(inner), self.dropout, self.training)


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions on ``(batch, seq, heads, head_dim)``; angles ``(seq, 1, head_dim / 2)``."""
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class Model(nn.Module):
    """A stack of blocks, a norm, and a loss.

    Without ``head`` it maps hidden states ``(batch, seq, hidden)`` to the mean of their squares
    (communication and blocks only); with it tokens and labels ``(batch, seq)`` to the cross
    entropy, embedding and head being the same on all ranks.
    """

    def __init__(
        self, shape: ModelShape, layers: int, parallel: Parallel, dropout: float, head: bool
    ) -> None:
        super().__init__()
        self.shape = shape
        block = GPTBlock if shape.kind == "gpt" else LlamaBlock
        self.embedding = nn.Embedding(shape.vocabulary, shape.hidden) if head else None
        self.blocks = nn.ModuleList(block(shape, parallel, dropout) for _ in range(layers))
        norm = nn.LayerNorm if shape.kind == "gpt" else nn.RMSNorm
        self.norm = norm(shape.hidden, 1e-5)
        self.head = nn.Linear(shape.hidden, shape.vocabulary, bias=False) if head else None

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """The loss, a float32 scalar."""
        if self.embedding is not None:
            x = self.embedding(x)
        extra = () if self.shape.kind == "gpt" else (self._angles(x),)
        for block in self.blocks:
            x = block(x, *extra)
        x = self.norm(x)
        if self.head is None or labels is None:
            return x.float().square().mean()
        return F.cross_entropy(self.head(x).float().flatten(0, 1), labels.flatten())

    def _angles(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        half = self.shape.head_dim // 2
        steps = torch.arange(half, device=x.device, dtype=torch.float32)
        places = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)
        angles = (places[:, None] * 10000 ** (-steps / half))[:, None, :]
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def make_model(
    shape: ModelShape,
    layers: int,
    parallel: Parallel,
    *,
    dropout: float,
    head: bool,
    device: str,
    dtype: torch.dtype,
) -> Model:
    """A model with this rank's parameters; the seed decides them.

    Raises:
        BenchError: the dimensions cannot be divided among the ranks.
    """
    shape.divided_by(parallel.group.size())
    with torch.device(device):
        model = Model(shape, layers, parallel, dropout, head).to(dtype)
    if parallel.style == "dtensor":
        mesh = DeviceMesh.from_group(parallel.group, device)
        for block in model.blocks:
            assert isinstance(block, (GPTBlock, LlamaBlock))
            plan: dict[str, Any] = {name: ColwiseParallel() for name in block.COLUMNS}
            plan |= {name: RowwiseParallel() for name in block.ROWS}
            parallelize_module(block, mesh, plan)
    return model
