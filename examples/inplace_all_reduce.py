"""Tensor parallelism written with the in-place `dist.all_reduce(x, group=...)`.

A compiled in-place all-reduce becomes a functional one, a wait and a copy, and the copy is removed.
Its compiled gradient is another all-reduce. Eager PyTorch does not run that one (it warns), so this
example compares compiled training with compiled training.

    torchrun --nproc-per-node 2 examples/inplace_all_reduce.py     (2 or 4 ranks)
    python examples/inplace_all_reduce.py                          (starts 2 ranks itself)
"""

import copy

import torch
import torch.distributed as dist
from _launch import compare, run, train
from torch import nn

WIDTH, ROWS, STEPS = 32, 6, 4


class MLP(nn.Module):
    """Each rank holds a part of the hidden units."""

    def __init__(self, world: int) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, 4 * WIDTH // world)
        self.down = nn.Linear(4 * WIDTH // world, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.down(nn.functional.gelu(self.up(x)))
        dist.all_reduce(y, group=dist.group.WORLD)
        return x + y


class Model(nn.Module):
    def __init__(self, world: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(MLP(world), MLP(world))

    def forward(self, x: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        # Every rank computes the same loss, and the gradient of an all-reduce adds them all up.
        return nn.functional.mse_loss(self.layers(x), wanted) / dist.get_world_size()


def main(rank: int, world: int) -> None:
    data = torch.Generator().manual_seed(0)
    batches = [tuple(torch.randn(2, ROWS, WIDTH, generator=data)) for _ in range(STEPS)]
    torch.manual_seed(rank)
    model = Model(world)
    uncut = train(torch.compile(copy.deepcopy(model), backend="aot_eager"), batches)

    compiled = torch.compile(model, backend="domino", options={"slices": 2})
    compare(uncut, train(compiled, batches))


if __name__ == "__main__":
    run(main)
