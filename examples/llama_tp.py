"""A Llama-like block: RMSNorm, rotary positions, SwiGLU, grouped queries; `parallelize_module`.

torchrun --nproc-per-node 2 examples/llama_tp.py               (2 or 4 ranks)
python examples/llama_tp.py                                    (starts 2 ranks itself)
"""

import torch
from _launch import compare, run, tokens, train
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

VOCABULARY, WIDTH, LENGTH = 64, 32, 8
HEADS, KEY_HEADS, HEAD = 8, 4, 4  # two query heads share a key and value head


def rotary(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of each position's angles, (length, HEAD)."""
    speed = 10_000.0 ** (-torch.arange(0, HEAD, 2) / HEAD)
    angle = torch.outer(torch.arange(length), speed).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat((-right, left), -1) * sin


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(WIDTH, HEADS * HEAD, bias=False)
        self.k = nn.Linear(WIDTH, KEY_HEADS * HEAD, bias=False)
        self.v = nn.Linear(WIDTH, KEY_HEADS * HEAD, bias=False)
        self.out = nn.Linear(HEADS * HEAD, WIDTH, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (-1, HEAD)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.attention = Attention()
        self.gate = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.down = nn.Linear(3 * WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x), cos, sin)
        y = self.norm2(x)
        return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.block = Block()
        self.norm = nn.RMSNorm(WIDTH)
        cos, sin = rotary(LENGTH)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def forward(self, text: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        x = self.block(self.embedding(text), self.cos, self.sin)
        logits = nn.functional.linear(self.norm(x), self.embedding.weight)
        return nn.functional.cross_entropy(logits.flatten(0, 1), following.flatten())


def parallel_llama(world: int) -> nn.Module:
    torch.manual_seed(0)
    model = Llama()
    columns = ("attention.q", "attention.k", "attention.v", "gate", "up")
    rows = ("attention.out", "down")
    plan = {name: ColwiseParallel() for name in columns}
    plan |= {name: RowwiseParallel() for name in rows}
    parallelize_module(model.block, init_device_mesh("cpu", (world,)), plan)
    return model


def main(rank: int, world: int) -> None:
    batches = tokens(3, (4, LENGTH), VOCABULARY)
    uncut = train(parallel_llama(world), batches)

    model = torch.compile(parallel_llama(world), backend="domino", options={"slices": 2})
    compare(uncut, train(model, batches))


if __name__ == "__main__":
    run(main)
