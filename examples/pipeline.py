"""Pipeline parallelism with tensor parallelism inside the stages: GPipe and 1F1B.

Each stage is compiled separately. Its graphs process one micro-batch, whose rows are cut.

    torchrun --nproc-per-node 4 examples/pipeline.py
    python examples/pipeline.py                                    (starts 4 ranks itself)
"""

import torch
import torch.distributed as dist
from _launch import run, tokens
from dtensor_tp import LENGTH, PLAN, VOCABULARY, WIDTH, Block
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.tensor.parallel import parallelize_module

import domino_compile

STAGES, MICRO_BATCHES = 2, 4


class First(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.block = nn.Embedding(VOCABULARY, WIDTH), Block()

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return self.block(self.embedding(text))


class Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Block(), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(x))


def loss_of(logits: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), following.flatten())


def train(mesh: DeviceMesh, schedule_class: type, *, compiled: bool) -> list[float]:
    """Returns the losses, which the last stage knows; on others it is empty."""
    index = mesh.get_local_rank("pp")
    torch.manual_seed(index)
    module = (First, Last)[index]()
    parallelize_module(module.block, mesh["tp"], PLAN)
    if compiled:
        module.compile(backend="domino", options={"slices": 2})
    stage = PipelineStage(module, index, STAGES, torch.device("cpu"), group=mesh.get_group("pp"))
    schedule = schedule_class(stage, MICRO_BATCHES, loss_fn=loss_of)
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    found = []
    for text, following in tokens(3, (8, LENGTH), VOCABULARY):
        optimiser.zero_grad()
        losses: list[torch.Tensor] = []
        if index == 0:
            schedule.step(text)
        else:
            schedule.step(target=following, losses=losses)
            found.append(sum(loss.item() for loss in losses) / MICRO_BATCHES)
        optimiser.step()
    return found


def main(rank: int, world: int) -> None:
    mesh = init_device_mesh("cpu", (STAGES, world // STAGES), mesh_dim_names=("pp", "tp"))
    for schedule in (ScheduleGPipe, Schedule1F1B):
        uncut = train(mesh, schedule, compiled=False)
        losses = train(mesh, schedule, compiled=True)
        torch.testing.assert_close(losses, uncut, rtol=1e-4, atol=1e-5)
        if rank == world - 1:
            print(schedule.__name__, "losses:", " ".join(f"{loss:.6f}" for loss in losses))
    reports = domino_compile.reports()
    assert reports and all(report.status == "sliced" for report in reports), reports
    if dist.get_rank() == 0:
        print("\n".join(report.summary() for report in reports))


if __name__ == "__main__":
    run(main, ranks=4)
