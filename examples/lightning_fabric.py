"""Lightning Fabric: tensor parallelism with `ModelParallelStrategy`, 2 x 2 with FSDP2.

    torchrun --nproc-per-node 4 examples/lightning_fabric.py
    python examples/lightning_fabric.py                            (starts 4 ranks itself)

It needs `pip install lightning`.
"""

import os

import torch
from _launch import compare, run, tokens
from dtensor_tp import GPT, LENGTH, PLAN, VOCABULARY
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.fabric.strategies import ModelParallelStrategy
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import parallelize_module


def parallelize(model: GPT, mesh: DeviceMesh) -> GPT:
    parallelize_module(model.block, mesh["tensor_parallel"], PLAN)
    fully_shard(model.block, mesh=mesh["data_parallel"])
    return fully_shard(model, mesh=mesh["data_parallel"])


def train(rank: int, world: int, *, compiled: bool) -> list[float]:
    fabric = Fabric(
        accelerator="cpu",
        devices=world,
        plugins=[TorchElasticEnvironment()],
        strategy=ModelParallelStrategy(
            parallelize, data_parallel_size=2, tensor_parallel_size=world // 2
        ),
    )
    fabric.launch()
    torch.manual_seed(0)
    model = GPT()
    if compiled:
        model = torch.compile(model, backend="domino", options={"slices": 2})
    model = fabric.setup(model)  # Fabric recompiles the model after making it parallel
    optimiser = fabric.setup_optimizers(torch.optim.Adam(model.parameters(), lr=1e-2))
    first = 4 * (rank * 2 // world)
    losses = []
    for text, following in tokens(3, (8, LENGTH), VOCABULARY):
        optimiser.zero_grad()
        loss = model(text[first : first + 4], following[first : first + 4])
        fabric.backward(loss)
        optimiser.step()
        losses.append(loss.item())
    return losses


def main(rank: int, world: int) -> None:
    # The variables that torchrun sets, for ranks that this file starts.
    found = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "GROUP_RANK": 0}
    os.environ |= {name: str(value) for name, value in found.items()}
    uncut = train(rank, world, compiled=False)
    compare(uncut, train(rank, world, compiled=True))


if __name__ == "__main__":
    run(main, ranks=4)
