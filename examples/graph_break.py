"""A graph break: each captured graph is cut separately.

The model passes a value to code that cannot be captured, so Dynamo captures the code before and
after it as two graphs. A cut value is joined when it leaves a graph.

    torchrun --nproc-per-node 2 examples/graph_break.py            (2 or 4 ranks)
    python examples/graph_break.py                                 (starts 2 ranks itself)
"""

import copy

import torch
import torch.distributed as dist
from _launch import compare, run, train
from funcol_all_reduce import MLP, ROWS, STEPS, WIDTH
from torch import nn

SEEN: list[float] = []


@torch.compiler.disable
def record(x: torch.Tensor) -> None:
    """Something that only plain Python can do."""
    SEEN.append(x.detach().abs().mean().item())


class Model(nn.Module):
    def __init__(self, world: int) -> None:
        super().__init__()
        self.first, self.second = MLP(world), MLP(world)

    def forward(self, x: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        record(x)
        # Every rank computes the same loss, and the gradient of an all-reduce adds them all up.
        return nn.functional.mse_loss(self.second(x), wanted) / dist.get_world_size()


def main(rank: int, world: int) -> None:
    data = torch.Generator().manual_seed(0)
    batches = [tuple(torch.randn(2, ROWS, WIDTH, generator=data)) for _ in range(STEPS)]
    torch.manual_seed(rank)
    model = Model(world)
    uncut = train(copy.deepcopy(model), batches)

    compiled = torch.compile(model, backend="domino", options={"slices": 2})
    compare(uncut, train(compiled, batches))


if __name__ == "__main__":
    run(main)
