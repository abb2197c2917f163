"""DeepSpeed's AutoTP: its engine divides the layers that the configuration names, then compiles.

    torchrun --nproc-per-node 2 examples/deepspeed_autotp.py
    python examples/deepspeed_autotp.py                            (starts 2 ranks itself)

It needs `pip install deepspeed`.
"""

import os
from typing import Any

import torch
from _launch import compare, run, tokens
from torch import nn
from torch.nn import functional as F

VOCABULARY, WIDTH, HEADS, LENGTH = 64, 32, 4, 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        for name in ("query", "key", "value", "output"):
            setattr(self, name, nn.Linear(WIDTH, WIDTH))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm_1(x)
        split = (
            layer(h).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(*split, is_causal=True)
        x = x + self.output(attended.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, text: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        x = self.embedding(text)
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(x).flatten(0, 1), following.flatten())


def engine_of(world: int) -> Any:
    """DeepSpeed's engine around the model, which is tensor-parallel on all ranks."""
    import deepspeed

    column = [r".*\.(query|key|value|up)\.weight$"]
    row = [r".*\.(output|down)\.weight$"]
    torch.manual_seed(0)
    model = GPT()
    layers = [
        {"patterns": column, "partition_type": "column"},
        {"patterns": row, "partition_type": "row"},
    ]
    config = {
        "train_micro_batch_size_per_gpu": 4,
        "tensor_parallel": {
            "autotp_size": world,
            "partition_config": {"use_default_specs": False, "layer_specs": layers},
        },
    }
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    return deepspeed.initialize(model=model, optimizer=adam, config=config)[0]


def train(engine: Any) -> list[float]:
    losses = []
    for text, following in tokens(3, (4, LENGTH), VOCABULARY):
        loss = engine(text, following)
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    return losses


def without_cuda() -> None:
    """Let DeepSpeed run on the CPU, without the operation that it would compile for minutes."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False


def main(rank: int, world: int) -> None:
    os.environ.setdefault("LOCAL_RANK", str(rank))
    if not torch.cuda.is_available():
        without_cuda()
    uncut = train(engine_of(world))

    engine = engine_of(world)
    engine.compile(backend="domino", compile_kwargs={"options": {"slices": 2}})
    compare(uncut, train(engine))


if __name__ == "__main__":
    run(main)
