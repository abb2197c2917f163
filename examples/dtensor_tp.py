"""Tensor parallelism with `parallelize_module`: a GPT block with Colwise and Rowwise layers.

The model is written for one device. DTensor adds the collectives while the graph is captured: one
all-reduce after attention and one after the MLP, and in backward one each for q, k and v, which are
merged into one.

    torchrun --nproc-per-node 2 examples/dtensor_tp.py             (2 or 4 ranks)
    python examples/dtensor_tp.py                                  (starts 2 ranks itself)
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

VOCABULARY, WIDTH, HEADS, LENGTH = 64, 32, 4, 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Embedding(LENGTH, WIDTH)
        self.block = Block()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, text: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        x = self.embedding(text) + self.position.weight
        logits = self.head(self.block(x))
        return nn.functional.cross_entropy(logits.flatten(0, 1), following.flatten())


PLAN = {name: ColwiseParallel() for name in ("q", "k", "v", "up")}
PLAN |= {name: RowwiseParallel() for name in ("out", "down")}


def parallel_gpt(world: int) -> nn.Module:
    torch.manual_seed(0)
    model = GPT()
    parallelize_module(model.block, init_device_mesh("cpu", (world,)), PLAN)
    return model


def main(rank: int, world: int) -> None:
    batches = tokens(3, (4, LENGTH), VOCABULARY)
    uncut = train(parallel_gpt(world), batches)

    model = torch.compile(parallel_gpt(world), backend="domino", options={"slices": 2})
    compare(uncut, train(model, batches))


if __name__ == "__main__":
    run(main)
