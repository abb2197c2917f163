"""Ways to make a benchmarked model tensor parallel, by hand (Megatron) or with DTensor.

===============  ========================  ====================================================
style            residual stream           collectives of a block in forward
===============  ========================  ====================================================
``megatron``     ``(batch, seq, hidden)``  an all-reduce behind each row-parallel layer
``dtensor``      ``(batch, seq, hidden)``  the same, placed by ``parallelize_module``
``megatron-sp``  ``(seq, batch, hidden)``  an all-gather in front of column-parallel layers, a
                 tokens divided            reduce-scatter behind each row-parallel one (dim 0)
``sp``           ``(batch, seq, hidden)``  the same along dim 1, placed by
                 tokens divided            ``parallelize_module`` as torchtitan does
===============  ========================  ====================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from domino_compile._compat.groups import funcol


class Style(StrEnum):
    """The styles, by the names that ``--style`` accepts."""

    MEGATRON = "megatron"
    DTENSOR = "dtensor"
    MEGATRON_SP = "megatron-sp"
    SP = "sp"

    @property
    def by_hand(self) -> bool:
        """Return whether layers hold this rank's part from the start: DTensor need not divide."""
        return self in (Style.MEGATRON, Style.MEGATRON_SP)

    @property
    def divides_tokens(self) -> bool:
        """Return whether each rank holds part of the tokens between layers (sequence parallel)."""
        return self in (Style.MEGATRON_SP, Style.SP)

    @property
    def tokens_first(self) -> bool:
        """Return whether activations are ``(seq, batch, hidden)``, not ``(batch, seq, hidden)``."""
        return self is Style.MEGATRON_SP


#: The functions' names from torch 2.13 on, and before.
_ALL_GATHER: Any = getattr(funcol, "all_gather_single", None) or funcol.all_gather_tensor
_REDUCE_SCATTER: Any = (
    getattr(funcol, "reduce_scatter_single", None) or funcol.reduce_scatter_tensor
)


def _gather(x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    gathered: torch.Tensor = _ALL_GATHER(x.contiguous(), 0, group)
    return gathered


def _reduce_scatter(x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    scattered: torch.Tensor = _REDUCE_SCATTER(x.contiguous(), "sum", 0, group)
    return scattered


def _part_of_rank(x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    return x.chunk(group.size(), 0)[group.rank()].contiguous()


class CopyToTensorParallel(torch.autograd.Function):
    """In front of column-parallel layers: identity forward, all-reduce backward (Megatron's f)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        """Keep the group for backward."""
        ctx.group = group
        return x

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Sum the gradients of all ranks."""
        return funcol.all_reduce(grads[0], "sum", ctx.group), None


class ReduceFromTensorParallel(torch.autograd.Function):
    """Behind row-parallel layers: all-reduce forward, identity backward (Megatron's g)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        """Sum over all ranks."""
        del ctx
        summed: torch.Tensor = funcol.all_reduce(x, "sum", group)
        return summed

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Pass the gradient on."""
        del ctx
        return grads[0], None


class GatherTokens(torch.autograd.Function):
    """In front of column-parallel layers: all-gather forward, reduce-scatter backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        """Gather ``(seq of this rank, ...)`` to ``(seq, ...)``."""
        ctx.group = group
        return _gather(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Sum over all ranks and keep the tokens of this one."""
        return _reduce_scatter(grads[0], ctx.group), None


class ReduceScatterTokens(torch.autograd.Function):
    """Behind row-parallel layers: reduce-scatter forward, all-gather backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        """Sum ``(seq, ...)`` over all ranks; return ``(seq of this rank, ...)``."""
        ctx.group = group
        return _reduce_scatter(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Gather the gradients of all tokens."""
        return _gather(grads[0], ctx.group), None


class DivideTokens(torch.autograd.Function):
    """Behind the embedding: this rank's tokens forward, all-gather backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        """Return ``(seq of this rank, ...)`` from ``(seq, ...)``, the same on all ranks."""
        ctx.group = group
        return _part_of_rank(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Gather the gradients of all tokens."""
        return _gather(grads[0], ctx.group), None


class CollectTokens(torch.autograd.Function):
    """In front of the loss: all-gather forward, this rank's tokens backward.

    All ranks compute the same loss of all tokens, so that their gradients need no sum.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        """Gather ``(seq of this rank, ...)`` to ``(seq, ...)``."""
        ctx.group = group
        return _gather(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the gradients of this rank's tokens."""
        return _part_of_rank(grads[0], ctx.group), None


@dataclass(frozen=True)
class Parallel:
    """How a model's layers are divided.

    Attributes:
        style: The way to divide them; see the module.
        group: The tensor-parallel group.
        mesh: The group as DTensor's mesh; ``None`` if layers are divided by hand.
    """

    style: Style
    group: dist.ProcessGroup
    mesh: DeviceMesh | None = None

    @staticmethod
    def of(style: Style, group: dist.ProcessGroup, device: str) -> Parallel:
        """Make the division for a style, with a mesh if the style needs one."""
        mesh = None if style.by_hand else DeviceMesh.from_group(group, device)
        return Parallel(style, group, mesh)

    @property
    def ways(self) -> int:
        """Return the number of parts that a layer is divided into when it is created."""
        return self.group.size() if self.style.by_hand else 1

    def apply(self, function: Any, x: torch.Tensor) -> torch.Tensor:
        """Call one of the functions above (torch does not annotate ``apply``)."""
        result: torch.Tensor = function.apply(x, self.group)
        return result


class Boundary(nn.Module):
    """A place where a value is redistributed, by a collective or by a change of DTensor layout.

    Args:
        parallel: The division, which decides between the two.
        whole: The function to apply by hand if every rank has all tokens; ``None`` for none.
        divided: The function to apply by hand if tokens are divided among the ranks.
    """

    def __init__(self, parallel: Parallel, whole: Any, divided: Any) -> None:
        super().__init__()
        self.parallel = parallel
        function = divided if parallel.style.divides_tokens else whole
        self.function = function if parallel.style.by_hand else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the redistributed value."""
        return x if self.function is None else self.parallel.apply(self.function, x)


def entrance(parallel: Parallel) -> Boundary:
    """Return the boundary in front of column-parallel layers."""
    return Boundary(parallel, CopyToTensorParallel, GatherTokens)


def exit_of(parallel: Parallel) -> Boundary:
    """Return the boundary behind a row-parallel layer."""
    return Boundary(parallel, ReduceFromTensorParallel, ReduceScatterTokens)


class RowLinear(nn.Module):
    """A row-parallel layer written by hand: the bias is added once, behind the collective."""

    def __init__(self, inner: int, outer: int, bias: bool, parallel: Parallel) -> None:
        super().__init__()
        self.leave = exit_of(parallel)
        self.product = nn.Linear(inner // parallel.ways, outer, bias=False)
        nn.init.normal_(self.product.weight, std=inner**-0.5)
        self.bias = nn.Parameter(torch.zeros(outer)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(..., inner of this rank)`` to ``(..., outer)``, summed over the ranks."""
        y: torch.Tensor = self.leave(self.product(x))
        return y if self.bias is None else y + self.bias


def column(inner: int, outer: int, bias: bool, parallel: Parallel) -> nn.Linear:
    """Return a column-parallel layer."""
    return nn.Linear(inner, outer // parallel.ways, bias=bias)


def row(inner: int, outer: int, bias: bool, parallel: Parallel) -> nn.Module:
    """Return a row-parallel layer."""
    if parallel.style.by_hand:
        return RowLinear(inner, outer, bias, parallel)
    return nn.Linear(inner, outer, bias=bias)


#: DTensor divides tokens along the second dimension.
TOKENS = Shard(1)


@dataclass(frozen=True)
class Layers:
    """The names of a block's layers, for DTensor.

    Attributes:
        columns: The column-parallel layers.
        rows: The row-parallel layers.
        norms: The norms in front of the entrances.
        entrances: The boundaries in front of column-parallel layers.
    """

    columns: tuple[str, ...]
    rows: tuple[str, ...] = ("out", "down")
    norms: tuple[str, ...] = ("norm1", "norm2")
    entrances: tuple[str, ...] = ("enter_attention", "enter_ffn")


def parallelize_block(
    block: nn.Module, mesh: DeviceMesh, layers: Layers, divide_tokens: bool
) -> None:
    """Let DTensor divide a block's layers, as torchtitan does it.

    Args:
        block: The block, which is changed.
        mesh: The tensor-parallel group.
        layers: The names of the block's layers.
        divide_tokens: Whether ranks divide the tokens too (sequence parallelism).
    """
    plan: dict[str, Any] = {name: ColwiseParallel() for name in layers.columns}
    if not divide_tokens:
        plan |= {name: RowwiseParallel() for name in layers.rows}
    else:
        plan |= {name: RowwiseParallel(output_layouts=TOKENS) for name in layers.rows}
        plan |= {name: SequenceParallel() for name in layers.norms}
        plan |= {name: _layouts(TOKENS, Replicate(), local=False) for name in layers.entrances}
    parallelize_module(block, mesh, plan)


def parallelize_ends(model: nn.Module, mesh: DeviceMesh) -> None:
    """Divide tokens in front of the first block and collect them behind the last norm."""
    plan: dict[str, Any] = {
        "divide": _layouts(Replicate(), TOKENS, local=True),
        "norm": SequenceParallel(),
        "collect": _layouts(TOKENS, Replicate(), local=True),
    }
    parallelize_module(model, mesh, plan)


def _layouts(given: Any, wanted: Any, local: bool) -> PrepareModuleInput:
    return PrepareModuleInput(
        input_layouts=(given,), desired_input_layouts=(wanted,), use_local_output=local
    )
