"""Predicted times of operations: matrix products, attention, collectives, bytes moved."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import fx

from domino_compile import _compat
from domino_compile.cost.fused import Fused
from domino_compile.cost.rates import DeviceRates, rates_for
from domino_compile.cost.waves import Product
from domino_compile.graph.collectives import (
    group_of,
    kind_of,
    payload_of,
    size_hint,
)
from domino_compile.links import LinkTable, load_link
from domino_compile.rules.call import by_name

aten = torch.ops.aten

#: The link tables' names of the functional collectives; an all-reduce for those not named. No table
#: was measured for an all-to-all: each rank sends and receives (n - 1) / n of the payload, as in an
#: all-gather of that size.
LINK_KINDS = {
    "all_gather_into_tensor": "all_gather",
    "reduce_scatter_tensor": "reduce_scatter",
    "all_gather_into_tensor_coalesced": "all_gather",
    "reduce_scatter_tensor_coalesced": "reduce_scatter",
    "all_to_all_single": "all_gather",
}
MATMULS = {aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default}
#: Parts of the names of operations that Inductor, or this package, makes of matrix products.
PRODUCTS = ("linear_pointwise", "mm_beside")

#: Parts of the names of fused attention operations, forward and backward.
ATTENTION = ("scaled_dot_product", "flex_attention", "_varlen_attn")
#: Attention's kernels are made for heads of 64, 128, ... elements.
HEAD_STEP = 64
#: The block size of a block mask that masks nothing (FlexAttention's ``_LARGE_SPARSE_BLOCK_SIZE``).
UNMASKED_BLOCK = 1 << 30
#: Rows of a head that a thread block of the attention kernels computes (cuDNN's on Hopper).
BLOCK_ROWS = 128


def is_attention(node: fx.Node) -> bool:
    """Whether the node is a fused attention operation, forward or backward, not a wrapped one."""
    return node.op == "call_function" and is_attention_operation(node.target)


def is_matmul(node: fx.Node) -> bool:
    """Whether the node is a matrix product, also inside the operations Inductor makes of it."""
    return node.op == "call_function" and is_product(node.target)


@cache
def is_attention_operation(target: Any) -> bool:
    """Whether an operation is a fused attention, forward or backward."""
    return any(name in str(target) for name in ATTENTION)


@cache
def is_product(target: Any) -> bool:
    """Whether an operation is a matrix product."""
    return target in MATMULS or any(name in str(target) for name in PRODUCTS)


class CostModel:
    """Predicts times in microseconds, for one device and one link table per group.

    Args:
        device: where the graph runs, or the name of another device.
        link: the table for collectives; ``None`` takes the device's default.
        group_size: returns the number of ranks of a group, given its name.
        slower: how much slower than in the table collectives are.
        configured: whether products beside a collective are configured for the multiprocessors
            that it leaves (``passes.products``).
    """

    def __init__(
        self,
        device: torch.device | str,
        link: LinkTable | str | None,
        group_size: Callable[[str], int],
        slower: float = 1.0,
        configured: bool = False,
    ) -> None:
        self.rates: DeviceRates = rates_for(device)
        self.configured = configured
        self.slower = slower
        self.group_size = group_size
        self.link: LinkTable = load_link(self.rates.link if link is None else link)
        #: The multiprocessors that a collective in flight takes from compute, and what it leaves.
        self.held = self.rates.held_by(self.link.ctas)
        self.free = self.rates.multiprocessors - self.held
        self._tables: dict[str, LinkTable] = {}

    def table(self, group: str) -> LinkTable:
        """The link table of a group: the named one, or the device's scaled to the group's size."""
        if group not in self._tables:
            size = max(self.group_size(group), 2)
            self._tables[group] = self.link.scaled_to(size)
        return self._tables[group]

    def wire_us(self, launch: fx.Node, share: float = 1.0) -> float:
        """Return the wire time of a collective, or of one with a share of its payload."""
        kind = kind_of(launch)
        kind = LINK_KINDS.get(kind, "all_reduce")
        table = self.table(group_of(launch))
        return table.time_us(kind, round(payload_of(launch) * share)) * self.slower

    def work_us(self, work: Work, nbytes: float) -> tuple[float, float]:
        """Return the time of work that moves ``nbytes``, alone and beside a collective.

        Work that is limited by memory is not slowed down: the remaining multiprocessors still
        saturate the memory.
        """
        moved = self.rates.memory_us(nbytes)
        alone, beside = (
            max(self._busy_us(work, held), moved) + self.rates.launch_us for held in (0, self.held)
        )
        return alone, beside

    def _busy_us(self, work: Work, held: int) -> float:
        if work.product is not None:
            return self.rates.matmul_us(work.product, work.dtype, held, self.configured)
        return self.rates.attention_us(work.attention, work.block, work.dtype, work.backward, held)

    def fused_us(self, work: Fused, inductors: bool = False) -> tuple[float, float]:
        """Return the time of a fused kernel, alone and beside a collective; 0 for no work.

        Args:
            work: the kernel's work.
            inductors: whether Inductor alone compiles the program.
        """
        if not (work.bytes or work.hard):
            return 0.0, 0.0
        alone, beside = (
            self.rates.fused_us(work, held, inductors) + self.rates.launch_us
            for held in (0, self.held)
        )
        return alone, beside


def slowdown(alone_us: float, beside_us: float) -> float:
    """Return the ratio of a time beside a collective to that without one; 1 for no time."""
    return beside_us / alone_us if alone_us else 1.0


@dataclass(frozen=True)
class Work:
    """The work of a matrix product or attention.

    Attributes:
        dtype: of its result.
        product: the extents of a product.
        attention: the operations of attention.
        block: the operations of one thread block of it, whatever the share of the batch.
        backward: whether it is attention's backward.
    """

    dtype: torch.dtype
    product: Product | None = None
    attention: float = 0.0
    block: float = 0.0
    backward: bool = False

    def share(self, parts: Sequence[float], extents: Sequence[str | None]) -> Work:
        """Return a share of this work along several axes.

        Args:
            parts: the share along each axis.
            extents: the extent of the product that each axis cuts: ``batch``, ``rows``,
                ``columns`` or ``inner``; ``None`` if it cuts none.
        """
        if self.product is None:
            return replace(self, attention=self.attention * math.prod(parts))
        product = self.product
        for part, extent in zip(parts, extents, strict=True):
            if extent is not None:
                product = replace(product, **{extent: getattr(product, extent) * part})
        return replace(self, product=product)


def looking_back(work: Work, start: float, share: float) -> list[Work]:
    """What one slice of the tokens of causal attention computes: its own square, and its past.

    Args:
        work: the whole attention's; half of what its queries and keys would be without a mask.
        start: the part of the tokens that are before the slice.
        share: the part of the tokens that it has.
    """
    own = replace(work, attention=work.attention * share**2, block=work.block * share)
    if not start:
        return [own]
    both = 2 * start * share
    return [own, replace(work, attention=work.attention * both, block=work.block * start)]


def work_of(node: fx.Node) -> Work | None:
    """Return the work of a matrix product or attention; ``None`` for anything else."""
    if is_matmul(node):
        value: Any = node.meta["val"]
        return Work(value.dtype, product=_product(node, value))
    target, args, kwargs = _compat.operation_of(node)
    if is_attention_operation(target):
        dtype = next(x.meta["val"] for x in args if isinstance(x, fx.Node)).dtype
        operations, block = _attention_operations(target, args, kwargs)
        backward = "backward" in str(target)
        return Work(dtype, attention=operations, block=block, backward=backward)
    return None


def _product(node: fx.Node, value: torch.Tensor) -> Product:
    operands = [x for x in node.args if isinstance(x, fx.Node)]
    if node.target in (aten.addmm.default, aten.baddbmm.default):
        operands = operands[1:]
    inner = size_hint(operands[0].meta["val"].shape[-1])
    shape = [size_hint(extent) for extent in value.shape]
    if node.target in (aten.bmm.default, aten.baddbmm.default):
        return Product(shape[0], shape[1], shape[2], inner)
    return Product(1, math.prod(shape[:-1]), shape[-1], inner)


def _attention_operations(
    target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[float, float]:
    """Two products ``S x S x d`` a head (half of it if masked), 2.5 times that in backward.

    A head's width ``d`` is filled up to the tiles of the kernels. Also the operations of one thread
    block: some rows of one head, and all keys, which the last ones see also if it is causal. What
    is filled up does not count there: alone on its multiprocessor it waits for more than products.
    """
    backward = "backward" in str(target)
    query, keys, masked = _attention_extents(target, args, kwargs, backward)
    width = size_hint(query.shape[-1])
    filled = -(-width // HEAD_STEP) * HEAD_STEP / max(width, 1)
    row = 4.0 * width * filled * keys * (2.5 if backward else 1.0)
    rows = _elements(query) / max(width, 1)
    block = row / filled * min(BLOCK_ROWS, size_hint(query.shape[-2]))
    return row * rows / (2 if masked else 1), block


def _attention_extents(
    target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], backward: bool
) -> tuple[torch.Tensor, int, bool]:
    """An attention's queries, how many keys each sees, and whether a mask takes half of them.

    How much a block mask leaves, and how long packed sequences are, is known only when the program
    runs: a mask is taken to be causal, and sequences to be as long as the longest may be.
    """
    if "flex_attention" in str(target):
        query, key = (x.meta["val"] for x in args[:2] if isinstance(x, fx.Node))
        mask: Any = args[9 if backward else 4]
        return query, size_hint(key.shape[-2]), size_hint(_value(mask[-2])) < UNMASKED_BLOCK
    named = by_name(target, args, kwargs)
    query, key = named["query"].meta["val"], named["key"].meta["val"]
    masked = named.get("is_causal") is True
    if "max_k" in named:
        return query, size_hint(_value(named["max_k"])), masked
    return query, size_hint(key.shape[-2]), masked


def _value(extent: Any) -> Any:
    return extent.meta["val"] if isinstance(extent, fx.Node) else extent


def _elements(tensor: torch.Tensor) -> int:
    return math.prod(size_hint(extent) for extent in tensor.shape)
