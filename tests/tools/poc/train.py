"""A small tensor-parallel training, as a user would write it: run by ``domino profile``, ``poc``.

``--micro 2`` accumulates gradients over micro-batches, ``--fail-on 1`` ends that rank with
a traceback and exit code 7.
"""

import argparse
import os
import sys
import traceback

import torch
import torch.distributed as dist
from torch import nn

from tests.emitted.harness import CopyToTensorParallel, ReduceFromTensorParallel


class Mlp(nn.Module):
    def __init__(self, ranks: int) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32 // ranks), nn.Linear(32 // ranks, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        hidden = self.up(CopyToTensorParallel.apply(x)).relu()
        return x + ReduceFromTensorParallel.apply(self.down(hidden))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--micro", type=int, default=1)
    parser.add_argument("--fail-on", type=int, default=-1)
    asked = parser.parse_args()
    dist.init_process_group("gloo")
    if dist.get_rank() == asked.fail_on:
        try:
            raise KeyError("mine")
        except KeyError:
            traceback.print_exc()
            sys.exit(7)
    model = torch.compile(Mlp(dist.get_world_size()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(1000):
        optimizer.zero_grad()
        losses = []
        for _ in range(asked.micro):
            loss = model(torch.randn(8, 16)).square().mean()
            loss.backward()
            losses.append(loss.item())
        print(f"rank {os.environ['RANK']} loss {sum(losses) / len(losses):.9g}", flush=True)
        optimizer.step()


main()
