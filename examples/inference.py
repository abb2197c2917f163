"""Inference: the prefill of a batch of prompts under `torch.no_grad`.

There is no backward, but the forward is still cut and scheduled.

    torchrun --nproc-per-node 2 examples/inference.py              (2 or 4 ranks)
    python examples/inference.py                                   (starts 2 ranks itself)
"""

import torch
from _launch import compare, run, tokens
from dtensor_tp import GPT, LENGTH, VOCABULARY
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)


class Prefill(GPT):
    """The logits of each prompt's next token."""

    def forward(self, prompts: torch.Tensor) -> torch.Tensor:
        x = self.block(self.embedding(prompts) + self.position.weight)
        return self.head(x[:, -1])


def parallel_model(world: int) -> nn.Module:
    torch.manual_seed(0)
    model = Prefill().eval()
    plan = {name: ColwiseParallel() for name in ("q", "k", "v", "up")}
    plan |= {name: RowwiseParallel() for name in ("out", "down")}
    parallelize_module(model.block, init_device_mesh("cpu", (world,)), plan)
    return model


@torch.no_grad()
def likeliest(model: nn.Module, prompts: list[torch.Tensor]) -> list[float]:
    """The largest logit of each batch of prompts."""
    return [model(batch).max().item() for batch in prompts]


def main(rank: int, world: int) -> None:
    prompts = [text for text, _ in tokens(3, (4, LENGTH), VOCABULARY)]
    model = parallel_model(world)
    uncut = likeliest(model, prompts)

    compiled = torch.compile(model, backend="domino", options={"slices": 2})
    compare(uncut, likeliest(compiled, prompts))


if __name__ == "__main__":
    run(main)
