"""DDP around tensor parallelism, 2 x 2, with Megatron-style layers.

Only the tensor-parallel collectives are cut; DDP reduces the gradients outside the graph. (With
torch 2.13, DDP around DTensor parameters does not compile with any backend: use `fsdp_tp.py`.)

    torchrun --nproc-per-node 4 examples/ddp_tp.py
    python examples/ddp_tp.py                                      (starts 4 ranks itself)
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from _launch import compare, run, train
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

WIDTH = 16


class Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return funcol.all_reduce(grad, "sum", ctx.group), None


class Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        return funcol.all_reduce(x, "sum", group)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad, None


class MLP(nn.Module):
    def __init__(self, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.group, hidden = group, 4 * WIDTH // group.size()
        self.up, self.down = nn.Linear(WIDTH, hidden), nn.Linear(hidden, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.gelu(self.up(Enter.apply(x, self.group)))
        return x + Leave.apply(self.down(y), self.group)


class Model(nn.Module):
    def __init__(self, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.blocks = nn.Sequential(MLP(group), MLP(group))

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(self.blocks(x), target)


def replicated(mesh: DeviceMesh) -> nn.Module:
    torch.manual_seed(mesh.get_local_rank("tp"))  # each rank has its part of the weights
    return DistributedDataParallel(Model(mesh.get_group("tp")), process_group=mesh.get_group("dp"))


def main(rank: int, world: int) -> None:
    mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("dp", "tp"))
    generator = torch.Generator().manual_seed(mesh.get_local_rank("dp"))
    batch = tuple(torch.randn(4, 8, WIDTH, generator=generator) for _ in range(2))
    uncut = train(replicated(mesh), [batch] * 3)

    model = torch.compile(replicated(mesh), backend="domino", options={"slices": 2})
    compare(uncut, train(model, [batch] * 3))


if __name__ == "__main__":
    run(main, ranks=4)
