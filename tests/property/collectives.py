"""The ways to write a tensor-parallel collective that generated programs choose from."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol

from tests.property.lone_rank import start


def group(name: str) -> Any:
    return start()[name]


if torch.__version__ < "2.13":  # which cannot capture collectives along other axes
    funcol._maybe_view_chunk_cat = torch._dynamo.dont_skip_tracing(funcol._maybe_view_chunk_cat)


def _waited(x: torch.Tensor) -> torch.Tensor:
    """Eager code gets a wrapper that waits at its first use: use it."""
    return x if torch.compiler.is_compiling() else x + 0


def all_reduce(x: torch.Tensor, on: Any) -> torch.Tensor:
    return _waited(funcol.all_reduce(x, "sum", on))


def all_gather(x: torch.Tensor, dim: int, on: Any) -> torch.Tensor:
    return _waited(funcol.all_gather_tensor(x, dim, on))


def reduce_scatter(x: torch.Tensor, dim: int, on: Any) -> torch.Tensor:
    return _waited(funcol.reduce_scatter_tensor(x, "sum", dim, on))


def all_reduce_in_place(x: torch.Tensor, on: Any) -> torch.Tensor:
    """``dist.all_reduce(x)``; its compiled form has a gradient, which the eager form lacks."""
    if not torch.compiler.is_compiling():
        return all_reduce(x, on)
    x = x * 1.0
    dist.all_reduce(x, group=on)
    return x


class _CopyTo(torch.autograd.Function):
    """Megatron's ``f``: identity forward, all-reduce backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, on: Any) -> torch.Tensor:
        ctx.on = on
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return all_reduce(grad.contiguous(), ctx.on), None


class _ReduceFrom(torch.autograd.Function):
    """Megatron's ``g``: all-reduce forward (in place), identity backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, on: Any) -> torch.Tensor:
        if funcol._are_we_tracing() and not torch.compiler.is_compiling():  # `captured`
            return all_reduce(x, on)
        x = x.clone()
        dist.all_reduce(x, group=on)
        return x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad, None


def copy_to(x: torch.Tensor, on: Any) -> torch.Tensor:
    return _CopyTo.apply(x, on)


def reduce_from(x: torch.Tensor, on: Any) -> torch.Tensor:
    return _ReduceFrom.apply(x, on)


def all_reduce_max(x: torch.Tensor, on: Any) -> torch.Tensor:
    return _waited(funcol.all_reduce(x.detach(), "max", on))


def all_reduce_mean(x: torch.Tensor, on: Any) -> torch.Tensor:
    """It has no gradient in torch."""
    return _waited(funcol.all_reduce(x.detach(), "avg", on))


def broadcast(x: torch.Tensor, on: Any) -> torch.Tensor:
    return _waited(funcol.broadcast(x.detach(), 0, on))


def all_to_all(x: torch.Tensor, on: Any) -> torch.Tensor:
    return _waited(funcol.all_to_all_single(x, None, None, on))


def all_reduce_both(x: torch.Tensor, y: torch.Tensor, on: Any) -> torch.Tensor:
    """Two tensors in one collective; their sum."""
    first, second = funcol.all_reduce_coalesced([x, y], "sum", on)
    return _waited(first) + _waited(second)


def all_gather_both(x: torch.Tensor, y: torch.Tensor, on: Any) -> torch.Tensor:
    first, second = funcol.all_gather_into_tensor_coalesced([x, y], on)
    return _waited(first) + _waited(second)


def reduce_scatter_both(x: torch.Tensor, y: torch.Tensor, on: Any) -> torch.Tensor:
    first, second = funcol.reduce_scatter_tensor_coalesced([x, y], "sum", [0, 0], on)
    return _waited(first) + _waited(second)


#: What programs call by name.
CALLED = (
    all_gather, all_reduce, all_reduce_in_place, copy_to, reduce_from, reduce_scatter,
    all_reduce_max, all_reduce_mean, broadcast, all_to_all, all_reduce_both, all_gather_both,
    reduce_scatter_both,
)  # fmt: skip
