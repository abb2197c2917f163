"""Programs with ``async_op=True`` collectives, on ranks: eager code against what domino compiles.

Inputs are small whole numbers, of which no sum or product is rounded: in whatever order things are
added up, results are equal to the bit.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

import domino_compile
from tests.ranks.checks import BACKENDS

Program = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class ColumnParallel(torch.autograd.Function):
    """As Megatron-core: the input's gradient is reduced beside the weight's gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, weight = ctx.saved_tensors
        grad_x = grad @ weight
        work = dist.all_reduce(grad_x, group=dist.group.WORLD, async_op=True)
        grad_weight = grad.flatten(0, 1).t() @ x.flatten(0, 1)
        work.wait()
        return grad_x, grad_weight


class SequenceParallel(torch.autograd.Function):
    """The same where the input is spread over the ranks by its first dimension."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        whole, work = _gathered(x)
        work.wait()
        return whole @ weight.t()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, weight = ctx.saved_tensors
        whole, work = _gathered(x)
        grad_whole = grad @ weight
        work.wait()
        grad_x = torch.empty_like(x)
        work = dist.reduce_scatter_tensor(grad_x, grad_whole, async_op=True)
        grad_weight = grad.flatten(0, 1).t() @ whole.flatten(0, 1)
        work.wait()
        return grad_x, grad_weight


def _gathered(x: torch.Tensor) -> tuple[torch.Tensor, Any]:
    whole = x.new_empty(x.shape[0] * dist.get_world_size(), *x.shape[1:])
    return whole, dist.all_gather_into_tensor(whole, x, async_op=True)


def megatron(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    y = x + 1
    for _ in range(2):
        y = y + ColumnParallel.apply(y, weight)
    return (y * y).sum()


def megatron_sequence_parallel(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return SequenceParallel.apply(x + 1, weight)


def two_groups(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    other = _second_group()
    sums = [x * 2, x @ weight, x + 3]
    works = [dist.all_reduce(sums[0], async_op=True)]
    works += [dist.all_reduce(y, group=other, async_op=True) for y in sums[1:]]
    for work in works:
        work.wait()
    return sums[0] * sums[1] + sums[2]


def last_waited(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        first, second = x * 2, x * 3
        dist.all_reduce(first, op=dist.ReduceOp.MAX, async_op=True).wait()
        dist.all_reduce(second, op=dist.ReduceOp.MAX, async_op=True).wait()
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, first, async_op=True).wait()
        sent = torch.empty_like(second)
        dist.all_to_all_single(sent, second, async_op=True).wait()
    return (sum(parts) + sent) * x @ weight


def input_written(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        work = dist.all_reduce(x, async_op=True)
    y = weight * 2
    work.wait()
    return x @ y


PROGRAMS: dict[str, Program] = {
    "megatron": megatron,
    "megatron_sequence_parallel": megatron_sequence_parallel,
    "two_groups": two_groups,
    "last_waited": last_waited,
    "input_written": input_written,
}
_groups: list[Any] = []


def _second_group() -> Any:
    return _groups[0]


def run(rank: int, world: int, name: str, lowering: str, grad: bool) -> dict[str, Any]:
    """A program, eager and compiled.

    Returns:
        ``equal``: for output, gradients and inputs afterwards, whether they are; ``breaks``: of the
        graph; ``actions``: what became of the collectives.
    """
    if not _groups:
        _groups.append(dist.new_group(list(range(world))))
    options = {"slices": 2, "lowering": lowering, "verify": "strict"}
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    domino_compile.reset_reports()
    eager = _step(PROGRAMS[name], rank, grad)
    program = torch.compile(PROGRAMS[name], backend=BACKENDS["domino"], options=options)
    compiled = _step(program, rank, grad)
    return {
        "equal": [torch.equal(a, b) for a, b in zip(eager, compiled, strict=True)],
        "breaks": sum(torch._dynamo.utils.counters["graph_break"].values()),
        "actions": [c.action for r in domino_compile.reports() for c in r.collectives],
        "summaries": [r.summary() for r in domino_compile.reports()],
    }


def _step(program: Program, rank: int, grad: bool) -> list[torch.Tensor]:
    """Output, gradients, and the inputs afterwards."""
    generator = torch.Generator().manual_seed(rank)
    x, weight = (
        torch.randint(-1, 2, shape, generator=generator).float() for shape in ((4, 3, 6), (6, 6))
    )
    leaves = [x.requires_grad_(), weight.requires_grad_()] if grad else []
    output = program(x, weight)
    if grad:
        output.sum().backward()
    return [output.detach(), x.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]
