"""Sequence parallelism with `parallelize_module`.

Between the linear layers each rank holds a part of the sequence, so ranks do not compute the same
norms and residuals. Instead of all-reduces there are all-gathers before attention and MLP and
reduce-scatters after them, along the sequence (dimension 1). They are cut along the batch.

    torchrun --nproc-per-node 2 examples/dtensor_sequence_parallel.py   (2 or 4 ranks)
    python examples/dtensor_sequence_parallel.py                        (starts 2 ranks itself)
"""

import torch
from _launch import compare, run, tokens, train
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

VOCABULARY, WIDTH, HEADS, LENGTH = 64, 32, 4, 8


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.gelu(self.up(x)))


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.attention, self.mlp = Attention(), MLP()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, text: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        x = self.embedding(text)
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        logits = self.head(self.norm3(x))
        return nn.functional.cross_entropy(logits.flatten(0, 1), following.flatten())


def parallel_gpt(world: int) -> nn.Module:
    torch.manual_seed(0)
    whole, part = Replicate(), Shard(1)  # of the sequence; the batch is dimension 0
    gather = PrepareModuleInput(input_layouts=(part,), desired_input_layouts=(whole,))
    plan = {
        "embedding": RowwiseParallel(input_layouts=whole, output_layouts=part),
        "norm1": SequenceParallel(),
        "attention": gather,
        "attention.q": ColwiseParallel(),
        "attention.k": ColwiseParallel(),
        "attention.v": ColwiseParallel(),
        "attention.out": RowwiseParallel(output_layouts=part),
        "norm2": SequenceParallel(),
        "mlp": gather,
        "mlp.up": ColwiseParallel(),
        "mlp.down": RowwiseParallel(output_layouts=part),
        "norm3": SequenceParallel(),
        "head": ColwiseParallel(input_layouts=part, output_layouts=whole),
    }
    return parallelize_module(GPT(), init_device_mesh("cpu", (world,)), plan)


def main(rank: int, world: int) -> None:
    batches = tokens(3, (4, LENGTH), VOCABULARY)
    uncut = train(parallel_gpt(world), batches)

    model = torch.compile(parallel_gpt(world), backend="domino", options={"slices": 2})
    compare(uncut, train(model, batches))


if __name__ == "__main__":
    run(main)
