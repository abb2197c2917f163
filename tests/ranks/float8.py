"""Training in float8 with torchao on real ranks; called by name through `pool.Pool`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import SequenceParallel, parallelize_module

import domino_compile
from domino_compile import CompileReport
from domino_compile.backend import domino

#: Local widths are multiples of 16, which scaled products need.
WIDTH, INNER, TOKENS, ROWS = 64, 64, 8, 4


@dataclass
class Step:
    """What one step said on one rank.

    Attributes:
        loss: The loss.
        grads: The gradients of this rank's parameters.
        reports: What domino did.
    """

    loss: torch.Tensor
    grads: dict[str, torch.Tensor]
    reports: list[CompileReport]


class ByHand(nn.Module):
    """A column- and a row-parallel layer between norm and all-reduce."""

    def __init__(self, ranks: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, INNER // ranks, bias=False)
        self.down = nn.Linear(INNER // ranks, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: Any = self.down(nn.functional.gelu(self.up(Copy.apply(self.norm(x)))))  # type: ignore[no-untyped-call]
        return x + Reduce.apply(y)  # type: ignore[no-untyped-call,no-any-return]


class Copy(torch.autograd.Function):
    """Identity, all-reduce in backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return funcol.all_reduce(grads[0], "sum", dist.group.WORLD)


class Reduce(torch.autograd.Function):
    """All-reduce, identity in backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        summed: torch.Tensor = funcol.all_reduce(x, "sum", dist.group.WORLD)
        return summed

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0]


class Divided(nn.Module):
    """The same, to be divided by DTensor."""

    def __init__(self, ranks: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.ffn = FeedForward()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x + self.ffn(self.norm(x))
        return y


class FeedForward(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, INNER, bias=False)
        self.down = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.down(nn.functional.gelu(self.up(x)))
        return y


class Model(nn.Module):
    """Two blocks and a loss."""

    def __init__(self, block: Callable[[int], nn.Module], ranks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block(ranks) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return (x.float() * torch.linspace(-1, 1, WIDTH)).sum()


def by_hand(recipe: str, ranks: int) -> nn.Module:
    """A model whose layers are divided by hand."""
    return converted(Model(ByHand, ranks), recipe)


def dtensors(ranks: int) -> nn.Module:
    """A sequence-parallel model of DTensors, which gather tensorwise scaled values in float8."""
    from torchao.float8.float8_tensor_parallel import (
        Float8ColwiseParallel,
        Float8RowwiseParallel,
        PrepareFloat8ModuleInput,
    )

    made, tokens = converted(Model(Divided, ranks), "tensorwise"), Shard(1)
    plan: dict[str, Any] = {}
    for i in range(2):
        plan |= {
            f"blocks.{i}.norm": SequenceParallel(use_local_output=True),
            f"blocks.{i}.ffn": PrepareFloat8ModuleInput(
                input_layouts=(tokens,), desired_input_layouts=(Replicate(),)
            ),
            f"blocks.{i}.ffn.up": Float8ColwiseParallel(),
            f"blocks.{i}.ffn.down": Float8RowwiseParallel(output_layouts=tokens),
        }
    mesh = init_device_mesh("cpu", (ranks,))
    return parallelize_module(made, mesh, plan, src_data_rank=None)


def converted(made: nn.Module, recipe: str) -> nn.Module:
    """The model with torchao's linear layers, in bf16."""
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    config = Float8LinearConfig.from_recipe_name(recipe)
    return convert_to_float8_training(made.bfloat16(), config=config)


def step(rank: int, world: int, recipe: str, options: Mapping[str, object] | None) -> Step:
    """One step under domino with these options, or under torch's backend without a compiler."""
    torch.manual_seed(0)
    made = by_hand(recipe, world)
    x = torch.randn(ROWS, TOKENS, WIDTH).bfloat16()
    torch._dynamo.reset()
    domino_compile.reset_reports()
    backend: Any = {"backend": "aot_eager"}
    if options is not None:
        backend = {"backend": domino, "options": dict(options)}
    loss = torch.compile(made, **backend)(x)
    loss.backward()
    grads = {name: p.grad for name, p in made.named_parameters() if p.grad is not None}
    return Step(loss.detach(), grads, domino_compile.reports())
