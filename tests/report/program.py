"""A program as users write them, for the tests to run in processes of their own.

One rank of two (the other is imagined): a tensor-parallel MLP, one training step; then a model
without collectives. The argument is the options as JSON.
"""

import json
import sys

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from torch import Tensor, nn

from domino_compile import _compat


class ParallelMLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.up(x))
        return x + funcol.all_reduce(self.down(hidden), "sum", dist.group.WORLD)


class Model(nn.Module):
    def __init__(self, width: int = 8, layers: int = 2) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ParallelMLP(width) for _ in range(layers))

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        return tokens.square().mean()


def main() -> None:
    options = {"slices": 2, **json.loads(sys.argv[1])}
    _compat.start_fake_group(2)
    torch.manual_seed(0)
    compiled = torch.compile(Model(), backend="domino", options=options)
    compiled(torch.randn(4, 8)).backward()
    alone = torch.compile(nn.Linear(8, 8), backend="domino", options=options)
    alone(torch.randn(4, 8)).sum().backward()


if __name__ == "__main__":
    main()
