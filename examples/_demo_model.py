"""The demo's model and data: a byte-level GPT, written plainly, on the standard library's source.

Nothing here refers to slices, overlap or ``domino_compile``.
"""

from __future__ import annotations

import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

VOCABULARY = 256  # a token is a byte


@dataclass(frozen=True)
class Shape:
    """Sizes of the model and of a batch."""

    layers: int
    dim: int
    heads: int
    batch: int
    sequence: int


class Attention(nn.Module):
    """Causal self-attention; the fused projection holds query, key and value head by head."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_dim = shape.dim // shape.heads
        self.qkv = nn.Linear(shape.dim, 3 * shape.dim)
        self.out = nn.Linear(shape.dim, shape.dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, sequence, _ = x.shape
        heads = self.qkv(x).view(batch, sequence, -1, 3 * self.head_dim).transpose(1, 2)
        query, key, value = heads.chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, sequence, -1))


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.dim)
        self.attention = Attention(shape)
        self.norm2 = nn.LayerNorm(shape.dim)
        self.up = nn.Linear(shape.dim, 4 * shape.dim)
        self.down = nn.Linear(4 * shape.dim, shape.dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Returns the mean cross-entropy of the next byte."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, shape.dim)
        self.position = nn.Embedding(shape.sequence, shape.dim)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.dim)
        self.head = nn.Linear(shape.dim, VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.embedding(tokens) + self.position(places)
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


#: Tensor parallelism as users write it with torch: two all-reduces per block and direction.
PLAN = {
    "attention.qkv": ColwiseParallel(),
    "attention.out": RowwiseParallel(),
    "up": ColwiseParallel(),
    "down": RowwiseParallel(),
}


def make_model(shape: Shape, mesh: DeviceMesh, seed: int) -> GPT:
    """The same model on every rank, each with its share of the weights."""
    torch.manual_seed(seed)
    model = GPT(shape)
    for block in model.blocks:
        parallelize_module(block, mesh, PLAN)
    return model


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW in one fused call for the sharded weights and one for the others."""
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for parameter in model.parameters():
        groups[isinstance(parameter, DTensor)].append(parameter)
    return torch.optim.AdamW([{"params": p} for p in groups.values()], lr=1e-3, fused=True)


def text(size: int) -> torch.Tensor:
    """Return at least ``size`` bytes of the Python standard library's source, always the same."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    data = bytearray()
    for path in sorted(folder.glob("*.py")):
        data += path.read_bytes()
        if len(data) >= size:
            break
    if len(data) < size:
        raise SystemExit(f"error: {folder} holds {len(data)} bytes of Python source, need {size}")
    return torch.frombuffer(data, dtype=torch.uint8)


def batches(shape: Shape, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield endless batches of tokens and the bytes that follow them, ``(batch, sequence)``."""
    data = text(1 << 20)
    draw = random.Random(seed)
    while True:
        starts = [draw.randrange(len(data) - shape.sequence) for _ in range(shape.batch)]
        rows = torch.stack([data[s : s + shape.sequence + 1] for s in starts]).long()
        yield rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
