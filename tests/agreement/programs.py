"""What real ranks do; called by name through `pool.Pool`. Results are plain data."""

import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from torch import nn

import domino_compile
from domino_compile import _compat
from domino_compile.backend import domino
from domino_compile.errors import RankMismatchError
from domino_compile.lowering import request

ABSENT = {"absent": True}


def timeout_of_a_group(rank: int, world: int, seconds: float) -> float:
    """What is known about the timeout of a group that was made with it."""
    group = dist.new_group(timeout=timedelta(seconds=seconds))
    return _compat.group_timeout_s(group.group_name)


class Reduce(torch.autograd.Function):
    """A row-parallel layer's all-reduce; its gradient goes to every rank as it is."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return funcol.all_reduce(x, "sum", dist.group.WORLD)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


class Block(nn.Module):
    """A tensor-parallel MLP whose weights are this rank's part."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, hidden), nn.Linear(hidden, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + Reduce.apply(self.down(nn.functional.gelu(self.up(x))))


class Statistics(nn.Module):
    """Data parallel: means over the batches of all ranks, in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.layer(x)
        sums = Reduce.apply(torch.cat([z.sum(0), torch.full((1,), float(len(x)))]))
        return (z - sums[:8] / sums[8]).pow(2).mean()


class Experts(nn.Module):
    """Rows are sent to other ranks, each as many as it likes."""

    def __init__(self, send: list[int], receive: list[int]) -> None:
        super().__init__()
        self.send, self.receive = send, receive
        self.layer, self.block = nn.Linear(16, 16), Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, group = self.block(x), dist.group.WORLD
        rows = funcol.all_to_all_single_autograd(self.layer(x), self.receive, self.send, group)
        back = funcol.all_to_all_single_autograd(rows.tanh(), self.send, self.receive, group)
        return x + back


class Breaking(nn.Module):
    """A graph that breaks on one rank only, between two collectives."""

    def __init__(self, breaks: bool) -> None:
        super().__init__()
        self.first, self.second, self.breaks = Block(), Block(), breaks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if self.breaks:
            torch._dynamo.graph_break()  # <breaks>
        return self.second(x)


def gradients(model: Callable[..., torch.Tensor], *batches: torch.Tensor) -> list[torch.Tensor]:
    """The gradient of each batch after one step on each."""
    found = []
    for batch in batches:
        x = batch.clone().requires_grad_()
        model(x).square().sum().backward()
        assert x.grad is not None
        found.append(x.grad)
    return found


def like_eager(model: nn.Module, options: dict[str, Any], *batches: torch.Tensor) -> dict[str, Any]:
    """Steps on batches under domino, compared with the same without: what was done, how long."""
    torch._dynamo.reset()
    began = time.monotonic()
    compiled = torch.compile(model, backend=domino, options={"lowering": "eager", **options})
    found = gradients(compiled, *batches)
    seconds = time.monotonic() - began
    reports = [(r.status, r.reason) for r in domino_compile.reports()]
    torch.testing.assert_close(found, gradients(model, *batches))
    return {"reports": reports, "seconds": seconds}


def batch(rows: int) -> torch.Tensor:
    return torch.randn(rows, 16, generator=torch.Generator().manual_seed(rows))


def statistics(rank: int, world: int) -> dict[str, Any]:
    torch.manual_seed(0)
    rows = (6, 6, 4 if rank else 6)
    torch._dynamo.config.automatic_dynamic_shapes = False
    return like_eager(Statistics(), {"slices": 2}, *map(batch, rows))


def experts(rank: int, world: int, sends: list[list[int]], options: dict[str, Any]) -> Any:
    torch.manual_seed(rank)
    mine = Experts(sends[rank], [send[rank] for send in sends])
    return like_eager(mine, options, batch(sum(sends[rank])))


def breaking(rank: int, world: int) -> dict[str, Any]:
    torch.manual_seed(rank)
    first = like_eager(Breaking(breaks=rank == 0), {"slices": 2}, batch(6))
    again = like_eager(Block(), {"slices": 2}, batch(6))
    return {"first": first, "again": again}


def uneven(rank: int, world: int, lowering: str) -> dict[str, Any]:
    """Layers that are wider on one rank than on the other."""
    torch.manual_seed(rank)
    model = nn.Sequential(Block(32 + 16 * rank), Block(48 - 16 * rank))
    return like_eager(model, {"slices": 2, "lowering": lowering}, batch(6))


def again_alone(rank: int, world: int) -> dict[str, Any]:
    """One rank loses its program and compiles it again, in a group that is planned."""
    torch.manual_seed(rank)
    model, x = Block(), batch(6)
    compiled = torch.compile(model, backend=domino, options={"lowering": "eager", "slices": 2})
    compiled(x).sum().backward()
    if rank == 1:
        torch._dynamo.reset()
    compiled(x).sum().backward()
    return {
        "compiled": len(domino_compile.reports()),
        "status": domino_compile.reports()[-1].status,
    }


def step(rank: int, world: int, case: list[dict[str, Any]], rows: int) -> str:
    """One step with the rank's options, and what became of it."""
    if case[rank] == ABSENT:
        return "ABSENT"
    torch.manual_seed(0)
    options = {"lowering": "eager", **case[rank]}
    rates = options.pop("rates", "")
    try:
        with mock.patch.object(request, "rates_identity", lambda: rates), warnings.catch_warnings():
            compiled = torch.compile(Block(), backend=domino, options=options)
            compiled(batch(rows)).sum().backward()
    except RankMismatchError as error:
        return f"REFUSED {error}"
    report = domino_compile.reports()[-1]
    return f"{report.status} {report.reason}"
