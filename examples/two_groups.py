"""Tensor and data parallelism in one compiled function, on a mesh of 2 x 2 ranks.

Two ranks share each layer (tensor parallel). Two such pairs process different rows and average
their weight gradients (data parallel) while backward still runs. Only the optimiser waits for these
averages, so they are left alone, and the report says so.

    torchrun --nproc-per-node 4 examples/two_groups.py             (4 ranks)
    python examples/two_groups.py                                  (starts 4 ranks itself)
"""

import copy
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from _launch import compare, run, train
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

RANKS = 4
WIDTH, ROWS, STEPS = 32, 6, 4


class Average(torch.autograd.Function):
    """The identity; the gradient is averaged over a group."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = funcol.all_reduce(gradient, "sum", ctx.group)
        return total / ctx.group.size(), None


class MLP(nn.Module):
    def __init__(self, mesh: DeviceMesh) -> None:
        super().__init__()
        self.tensor, self.data = mesh.get_group("tensor"), mesh.get_group("data")
        hidden = 4 * WIDTH // self.tensor.size()
        self.up = nn.Parameter(torch.randn(hidden, WIDTH) / WIDTH**0.5)
        self.down = nn.Parameter(torch.randn(WIDTH, hidden) / WIDTH**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        up, down = Average.apply(self.up, self.data), Average.apply(self.down, self.data)
        partial = nn.functional.gelu(x @ up.T) @ down.T
        return x + funcol.all_reduce(partial, "sum", self.tensor)


class Model(nn.Module):
    def __init__(self, mesh: DeviceMesh) -> None:
        super().__init__()
        self.layers = nn.Sequential(MLP(mesh), MLP(mesh))
        self.share = 1 / mesh["tensor"].size()

    def forward(self, x: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        # Every tensor-parallel rank computes the same loss; the all-reduce's gradient adds them up.
        return nn.functional.mse_loss(self.layers(x), wanted) * self.share


def main(rank: int, world: int) -> None:
    mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("data", "tensor"))
    data = torch.Generator().manual_seed(mesh.get_local_rank("data"))
    batches = [tuple(torch.randn(2, ROWS, WIDTH, generator=data)) for _ in range(STEPS)]
    torch.manual_seed(mesh.get_local_rank("tensor"))
    model = Model(mesh)
    uncut = train(copy_of(model), batches)

    compiled = torch.compile(model, backend="domino", options={"slices": 2})
    compare(uncut, train(compiled, batches))


def copy_of(model: Model) -> Model:
    """A copy with weights of its own; process groups cannot be copied and are shared."""
    groups = [group for layer in model.layers for group in (layer.tensor, layer.data)]
    return copy.deepcopy(model, {id(group): group for group in groups})


if __name__ == "__main__":
    run(main, RANKS)
