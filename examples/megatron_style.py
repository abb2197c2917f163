"""Tensor parallelism as Megatron-LM writes it: a pair of autograd functions around two linears.

`Copy` (Megatron's f) is the identity in forward and an all-reduce in backward; `Reduce` (g) is the
reverse. Reports name the line that called each of them, in forward and in backward.

    torchrun --nproc-per-node 2 examples/megatron_style.py         (2 or 4 ranks)
    python examples/megatron_style.py                              (starts 2 ranks itself)
"""

import copy
from typing import Any

import torch
import torch.distributed as dist
from _launch import compare, run, tokens, train
from torch import nn

VOCABULARY, WIDTH, HEADS, LENGTH = 64, 32, 4, 8


class Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient, group=dist.group.WORLD)
        return gradient


class Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous()
        dist.all_reduce(x, group=dist.group.WORLD)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


class ColumnParallelLinear(nn.Linear):
    """Each rank computes a part of the outputs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs // dist.get_world_size())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(Copy.apply(x))


class RowParallelLinear(nn.Linear):
    """Each rank holds a part of the inputs; the partial results are added up."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs // dist.get_world_size(), outputs, bias=False)
        self.whole_bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Reduce.apply(super().forward(x)) + self.whole_bias


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv = ColumnParallelLinear(WIDTH, 3 * WIDTH)
        self.out = RowParallelLinear(WIDTH, WIDTH)
        self.up = ColumnParallelLinear(WIDTH, 4 * WIDTH)
        self.down = RowParallelLinear(4 * WIDTH, WIDTH)

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, -1, WIDTH // HEADS))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
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
        self.blocks = nn.Sequential(Block())
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, text: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        x = self.embedding(text) + self.position.weight
        logits = self.head(self.blocks(x))
        return nn.functional.cross_entropy(logits.flatten(0, 1), following.flatten())


def shared_start(model: nn.Module) -> None:
    """Give all ranks the same weights where they are not parts of a whole."""
    for name, parameter in model.named_parameters():
        if not any(layer in name for layer in ("qkv.", "up.", "out.weight", "down.weight")):
            dist.broadcast(parameter.data, 0)


def main(rank: int, world: int) -> None:
    torch.manual_seed(rank)
    model = GPT()
    shared_start(model)
    batches = tokens(3, (4, LENGTH), VOCABULARY)
    uncut = train(copy.deepcopy(model), batches)

    compiled = torch.compile(model, backend="domino", options={"slices": 2})
    compare(uncut, train(compiled, batches))


if __name__ == "__main__":
    run(main)
