"""A model with sequence parallelism whose collectives travel by the transport, on a lone rank."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._inductor.utils import run_and_get_code

import domino_compile
from domino_compile._compat.groups import funcol
from domino_compile.transport import choice, ops
from domino_compile.transport.memory import Layout, Slot
from domino_compile.transport.protocol import Member
from domino_compile.transport.wire import Key, Wire
from tests.emitted.harness import Checked, checks_seen, fake_world, kernels_unbuilt
from tests.paths import FAST_LINK


class LoneSlot(Slot):
    """A slot without peers: nothing arrives."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._bytes = torch.zeros(layout.nbytes, dtype=torch.uint8)

    def memory(self, rank: int) -> torch.Tensor:
        return self._bytes


class LoneWire(Wire):
    """A transport without peers, which notes what it is asked."""

    def new_slot(self, key: Key, layout: Layout) -> Slot:
        return LoneSlot(layout)

    def launch(self, slot: Slot, commands: Callable[[Any], None]) -> Any:
        return None

    def join(self, launched: Any) -> None:
        pass

    def compute_queue(self, slot: Slot) -> Any:
        return self

    def take(self, flag: object) -> None:
        pass

    put = take

    def copy(self, target: object, source: object) -> None:
        pass


class Gather(torch.autograd.Function):
    """Tokens of all ranks."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return funcol.all_gather_tensor(x, 0, dist.group.WORLD)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return funcol.reduce_scatter_tensor(grad, "sum", 0, dist.group.WORLD)


class Scatter(torch.autograd.Function):
    """The sum over all ranks, of this rank's tokens."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return funcol.reduce_scatter_tensor(x, "sum", 0, dist.group.WORLD)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return funcol.all_gather_tensor(grad, 0, dist.group.WORLD)


class Block(nn.Module):
    """An MLP with sequence parallelism, whose weights' gradients read the gathered tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 32, bias=False), nn.Linear(32, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + Scatter.apply(self.down(self.up(Gather.apply(x)).relu()))


def step(compile_: Callable[..., Any]) -> None:
    model = nn.Sequential(Block(), Block())
    compile_(model)(torch.randn(8, 4, 16)).sum().backward()


class Compiled(NamedTuple):
    """The code of a model, its report, and what was established about the order."""

    codes: list[str]
    report: domino_compile.CompileReport
    checked: list[Checked]


def compile_carried() -> Compiled:
    """Compile the model: all-gathers, some of which are saved, and reduce-scatters."""
    fake_world()
    torch._dynamo.reset()
    domino_compile.reset_reports()
    with pytest.MonkeyPatch.context() as patch:
        lone = LoneWire("0", Member(0, 2))
        patch.setattr(ops, "wire_of", lambda group, device: lone)
        patch.setattr(choice, "against_group", lambda name, device: "")
        options = {"slices": 2, "link": FAST_LINK, "transport": "symmetric"}
        compile_ = partial(torch.compile, backend="domino", options=options)
        with kernels_unbuilt(), checks_seen() as checked:
            _, codes = run_and_get_code(step, compile_)
        assert not lone._pending
    (report,) = domino_compile.reports()
    return Compiled(codes, report, checked)
