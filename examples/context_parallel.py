"""Context parallelism: each rank holds some of the tokens and gathers all keys and values.

The all-gathers in forward and the reduce-scatters in backward carry the batch and are cut with it.
(torch's own `context_parallel` has no attention for CPUs.)

    torchrun --nproc-per-node 2 examples/context_parallel.py       (2 or 4 ranks)
    python examples/context_parallel.py                            (starts 2 ranks itself)
"""

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from _launch import compare, run, train
from torch import nn

WIDTH, HEADS, LENGTH = 32, 4, 16


#: torch 2.13 renamed it.
all_gather = (
    getattr(funcol, "all_gather_single_autograd", None) or funcol.all_gather_tensor_autograd
)


def gathered(x: torch.Tensor) -> torch.Tensor:
    """All ranks' tokens of (rows, heads, tokens of this rank, width of a head)."""
    return all_gather(x.contiguous(), 2, dist.group.WORLD)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        y = nn.functional.scaled_dot_product_attention(q, gathered(k), gathered(v), mask)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Model(nn.Module):
    """Two blocks; `mask` (tokens of this rank, all tokens) says which keys a token may see."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, x: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x, mask)
        return nn.functional.mse_loss(x, target)


def main(rank: int, world: int) -> None:
    generator = torch.Generator().manual_seed(1)
    mine = slice(rank * LENGTH // world, (rank + 1) * LENGTH // world)
    x, target = (torch.randn(4, LENGTH, WIDTH, generator=generator)[:, mine] for _ in range(2))
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()[mine]
    batches = [(x, target, causal)] * 3

    torch.manual_seed(0)
    model = Model()
    uncut = train(model, batches)

    torch.manual_seed(0)
    model = torch.compile(Model(), backend="domino", options={"slices": 2})
    compare(uncut, train(model, batches))


if __name__ == "__main__":
    run(main)
