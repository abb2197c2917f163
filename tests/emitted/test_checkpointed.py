"""Checkpointed blocks: the generated code keeps the planned order.

That the numbers are right is tested in ``tests/property/test_inductor.py``.
"""

import pytest
import torch
from torch import nn
from torch._inductor.utils import run_and_get_code
from torch.utils.checkpoint import checkpoint

import domino_compile
from tests.emitted.harness import HIDDEN, SEQ, Block, events, fake_world, kernels_unbuilt
from tests.paths import FAST_LINK

pytestmark = pytest.mark.xdist_group("emitted")
BLOCKS = 3


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(0.0) for _ in range(BLOCKS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x.square().sum()


@pytest.mark.parametrize("slices", [1, 2])
def test_recomputation_is_emitted_as_planned(slices: int) -> None:
    fake_world()
    torch._dynamo.reset()
    domino_compile.reset_reports()
    options = {"slices": slices, "link": FAST_LINK}
    program = torch.compile(Checkpointed(), backend="domino", options=options)
    x = torch.randn(4, SEQ, HIDDEN)
    with kernels_unbuilt():
        _, codes = run_and_get_code(lambda: program(x).backward())
    (report,) = domino_compile.reports()
    planned = {s.phase: s.events for s in report.schedules}
    for phase, code in zip(("forward", "backward"), codes, strict=True):
        assert events(code) == [event.split(" ")[0] for event in planned[phase]], phase
