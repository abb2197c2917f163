"""Programs whose emitted code is checked: sequence parallel, and with checkpointed blocks."""

from functools import cache

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import domino_compile
from tests.emitted.harness import (
    HIDDEN,
    SEQ,
    Block,
    Checked,
    checks_seen,
    fake_world,
    kernels_unbuilt,
)
from tests.paths import FAST_LINK


class SequenceParallel(nn.Module):
    """All-gather, an MLP, reduce-scatter, along the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(HIDDEN)
        self.up = nn.Linear(HIDDEN, 2 * HIDDEN, bias=False)
        self.down = nn.Linear(2 * HIDDEN, HIDDEN, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            whole = funcol.all_gather_tensor(self.norm(x), 1, dist.group.WORLD)
            part = self.down(F.silu(self.up(whole)))
            x = x + funcol.reduce_scatter_tensor(part, "sum", 1, dist.group.WORLD)
        return x.square().sum()


class Checkpointed(nn.Module):
    """Blocks of attention and MLP that backward computes again."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(0.0) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x.square().sum()


@cache
def sequence_parallel() -> list[Checked]:
    """The code of forward and backward, two slices; its collectives return new tensors."""
    return _compiled(SequenceParallel(), batch={"x": 0})


@cache
def checkpointed() -> list[Checked]:
    """The same of checkpointed blocks."""
    return _compiled(Checkpointed())


def _compiled(model: nn.Module, **options: object) -> list[Checked]:
    fake_world()
    torch._dynamo.reset()
    chosen = {"slices": 2, "link": FAST_LINK, "verify": "on", **options}
    program = torch.compile(model, backend="domino", options=chosen)
    x = torch.randn(5, SEQ, HIDDEN)
    with kernels_unbuilt(), checks_seen() as checked:
        program(x).backward()
    assert domino_compile.reports()[-1].status == "sliced"
    return checked
