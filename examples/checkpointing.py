"""Activation checkpointing: backward recomputes the block, including its collectives.

After the cut, backward still recomputes the block, slice by slice, so checkpointing saves the same
activations.

    torchrun --nproc-per-node 2 examples/checkpointing.py          (2 or 4 ranks)
    python examples/checkpointing.py                               (starts 2 ranks itself)
"""

import copy

import torch
from _launch import compare, run, tokens, train
from megatron_style import GPT, LENGTH, VOCABULARY, Block, shared_start
from torch import nn
from torch.utils.checkpoint import checkpoint


class Checkpointed(Block):
    """Keeps only the block's input for backward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


def main(rank: int, world: int) -> None:
    torch.manual_seed(rank)
    model = GPT()
    model.blocks = nn.Sequential(Checkpointed())
    shared_start(model)
    batches = tokens(3, (4, LENGTH), VOCABULARY)
    uncut = train(copy.deepcopy(model), batches)

    compiled = torch.compile(model, backend="domino", options={"slices": 2})
    compare(uncut, train(compiled, batches))


if __name__ == "__main__":
    run(main)
