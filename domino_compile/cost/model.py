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
from domino_compile.graph.tags import is_exchanged
from domino_compile.links import LinkTable, load_link
from domino_compile.rules.call import by_name

aten = torch.ops.aten

#: The link tables' names of the functional collectives; all others count as an all-reduce. No table
#: was measured for an all-to-all. Each rank sends and receives (n - 1) / n of the payload, as in an
#: all-gather of that size.
LINK_KINDS = {
    "all_gather_into_tensor": "all_gather",
    "reduce_scatter_tensor": "reduce_scatter",
    "all_gather_into_tensor_coalesced": "all_gather",
    "reduce_scatter_tensor_coalesced": "reduce_scatter",
    "all_to_all_single": "all_gather",
    "all_to_all_tokens": "all_gather",
}
MATMULS = {aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default}
SCALED = {aten._scaled_mm.default, aten._scaled_mm_v2.default}
GROUPED = {aten._grouped_mm.default, aten._scaled_grouped_mm.default}
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
    """Return whether the node itself is a fused attention operation, forward or backward."""
    return node.op == "call_function" and is_attention_operation(node.target)


def is_matmul(node: fx.Node) -> bool:
    """Return whether the node is a matrix product, or an operation that Inductor makes of one."""
    return node.op == "call_function" and is_product(node.target)


@cache
def is_attention_operation(target: Any) -> bool:
    """Return whether an operation is a fused attention, forward or backward."""
    return any(name in str(target) for name in ATTENTION)


@cache
def is_product(target: Any) -> bool:
    """Return whether an operation is a matrix product."""
    return target in MATMULS | SCALED | GROUPED or any(name in str(target) for name in PRODUCTS)


class CostModel:
    """Predicts times in microseconds, for one device and one link table per group.

    Args:
        device: The device that runs the graph, or the name of another device.
        link: The table for collectives; ``None`` takes the device's default.
        group_size: A function that returns the number of ranks of a group, given its name.
        slower: How many times slower collectives are than in the table.
        configured: Whether products beside a collective are configured for the multiprocessors
            that it leaves (``passes.products``).
        by_copy_engines: Whether collectives hold no multiprocessors (``transport``).
    """

    def __init__(
        self,
        device: torch.device | str,
        link: LinkTable | str | None,
        group_size: Callable[[str], int],
        slower: float = 1.0,
        configured: bool = False,
        by_copy_engines: bool = False,
    ) -> None:
        self.rates: DeviceRates = rates_for(device)
        self.configured = configured and not by_copy_engines
        self.slower = slower
        self.group_size = group_size
        self.link: LinkTable = load_link(self.rates.link if link is None else link)
        #: The multiprocessors that a collective in flight holds, and those that it leaves.
        self.held = 0 if by_copy_engines else self.rates.held_by(self.link.ctas)
        self.free = self.rates.multiprocessors - self.held
        self._contention = self.link.contention
        self._beyond = self._beyond_held()
        self._tables: dict[str, LinkTable] = {}

    def table(self, group: str) -> LinkTable:
        """Return the link table, scaled to the size of a group."""
        if group not in self._tables:
            size = max(self.group_size(group), 2)
            self._tables[group] = self.link.scaled_to(size)
        return self._tables[group]

    def wire_us(self, launch: fx.Node, share: float = 1.0) -> float:
        """Return the wire time of a collective, or of one with a share of its payload."""
        kind = kind_of(launch)
        kind = LINK_KINDS.get(kind, "all_reduce")
        table = self.table(group_of(launch))
        if is_exchanged(launch):  # ranks will only send what others need, their own tokens
            share /= _compat.group_size(group_of(launch))
        return table.time_us(kind, round(payload_of(launch) * share)) * self.slower

    def wire_slowdown(self, launch: fx.Node) -> float:
        """Return a collective's time beside compute divided by its time alone."""
        if self._contention is None:
            return 1.0
        return self._contention.of(LINK_KINDS.get(kind_of(launch), "all_reduce"))

    @property
    def regained(self) -> float:
        """Return the share of the time that compute waits for the wire which it regains."""
        return 0.0 if self._contention is None else self._contention.regained

    def _beyond_held(self) -> float:
        """Return how many times more collectives slow products down than ``held`` explains."""
        if self._contention is None:
            return 1.0
        rows, columns, inner = self._contention.product
        alone, beside = (
            self.rates.matmul_us(Product(1, rows, columns, inner), torch.bfloat16, held)
            for held in (0, self.held)
        )
        return self._contention.products * alone / beside

    def work_us(self, work: Work, nbytes: float) -> tuple[float, float]:
        """Return the time of work that moves ``nbytes``, alone and beside a collective.

        Work that is limited by memory is not slowed down by missing multiprocessors: the remaining
        ones still saturate the memory. A link's ``contention`` says what else slows work down.
        """
        moved = self.rates.memory_us(nbytes)
        undisturbed, beside = (
            max(self._busy_us(work, held), moved) + self.rates.launch_us for held in (0, self.held)
        )
        return undisturbed, max(undisturbed, beside * self._beyond)

    def _busy_us(self, work: Work, held: int) -> float:
        if work.product is not None:
            return self.rates.matmul_us(work.product, work.dtype, held, self.configured)
        sizes = work.attention, work.block, work.keys
        return self.rates.attention_us(*sizes, work.dtype, work.backward, held)

    def fused_us(self, work: Fused, inductors: bool = False) -> tuple[float, float]:
        """Return the time of a fused kernel, alone and beside a collective; 0 for no work.

        Args:
            work: The kernel's work.
            inductors: Whether Inductor alone compiles the program.
        """
        if not (work.bytes or work.hard):
            return 0.0, 0.0
        undisturbed, beside = (
            self.rates.fused_us(work, held, inductors) + self.rates.launch_us
            for held in (0, self.held)
        )
        return undisturbed, beside * (1.0 if self._contention is None else self._contention.memory)


def slowdown(alone_us: float, beside_us: float) -> float:
    """Return the ratio of a time beside a collective to that without one; 1 for no time."""
    return beside_us / alone_us if alone_us else 1.0


@dataclass(frozen=True)
class Work:
    """The work of a matrix product or attention.

    Attributes:
        dtype: The type of the result.
        product: The extents of a product.
        attention: The number of operations of attention.
        block: The number of operations of one of its thread blocks, the same for any share of the
            batch.
        keys: The number of keys that a query may see.
        backward: Whether it is attention's backward.
    """

    dtype: torch.dtype
    product: Product | None = None
    attention: float = 0.0
    block: float = 0.0
    keys: float = 0.0
    backward: bool = False

    def share(self, parts: Sequence[float], extents: Sequence[str | None]) -> Work:
        """Return a share of this work along several axes.

        Args:
            parts: The share along each axis.
            extents: The extent of the product that each axis cuts: ``batch``, ``rows``,
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
    """Return the work of one slice of the tokens of causal attention: its square, and its past.

    Args:
        work: The work of the whole attention, which is half of that without a mask.
        start: The share of the tokens before the slice.
        share: The share of the tokens in the slice.
    """
    square = _of_keys(work, share, work.attention * share**2)
    if not start:
        return [square]
    return [square, _of_keys(work, start, work.attention * 2 * start * share)]


def _of_keys(work: Work, share: float, operations: float) -> Work:
    """Return attention with a share of its keys."""
    return replace(work, attention=operations, block=work.block * share, keys=work.keys * share)


def work_of(node: fx.Node) -> Work | None:
    """Return the work of a matrix product or attention; ``None`` for anything else."""
    if is_matmul(node):
        left, right = _operands(node)
        return Work(left.dtype, product=_product(node, left, right))
    target, args, kwargs = _compat.operation_of(node)
    if is_attention_operation(target):
        dtype = next(x.meta["val"] for x in args if isinstance(x, fx.Node)).dtype
        return _attention_work(dtype, target, args, kwargs)
    return None


def _operands(node: fx.Node) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the two operands of a matrix product, without the added value and scales."""
    operands = [x.meta["val"] for x in node.args if isinstance(x, fx.Node)]
    first = 1 if _adds(node.target) else 0
    return operands[first], operands[first + 1]


@cache
def _adds(target: Any) -> bool:
    """Return whether the first operand of a product is added to it."""
    return "addmm" in str(target) or "baddbmm" in str(target)


def _product(node: fx.Node, left: torch.Tensor, right: torch.Tensor) -> Product:
    """Return the extents of a product.

    A grouped product multiplies each row with the weights of one expert only. The number of rows of
    each expert is known only when the program runs, so all are assumed to have equally many.
    """
    shape = [size_hint(extent) for extent in node.meta["val"].shape]
    inner = size_hint(left.shape[-1])
    if node.target in GROUPED and left.ndim == right.ndim == 2:
        inner = max(inner // max(shape[0], 1), 1)
    if len(shape) == 3 and (node.target in GROUPED or right.ndim == 3):
        return Product(shape[0], shape[1], shape[2], inner)
    return Product(1, math.prod(shape[:-1]), shape[-1], inner)


def _attention_work(
    dtype: torch.dtype, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Work:
    """Return the work of an attention.

    A head takes two products ``S x S x d`` (half of that if masked), and 2.5 times as much in
    backward. Its width ``d`` is padded to the tiles of the kernels. A thread block computes some
    rows of one head with all keys: even with a causal mask, the last rows see all of them. The
    padding does not count for a block, which, alone on its multiprocessor, also waits for other
    things than products.
    """
    backward = "backward" in str(target)
    query, keys, masked = _attention_extents(target, args, kwargs, backward)
    width = size_hint(query.shape[-1])
    filled = -(-width // HEAD_STEP) * HEAD_STEP / max(width, 1)
    row = 4.0 * width * filled * keys * (2.5 if backward else 1.0)
    rows = _elements(query) / max(width, 1)
    block = row / filled * min(BLOCK_ROWS, size_hint(query.shape[-2]))
    operations = row * rows / (2 if masked else 1)
    return Work(dtype, attention=operations, block=block, keys=keys, backward=backward)


def _attention_extents(
    target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], backward: bool
) -> tuple[torch.Tensor, int, bool]:
    """Return an attention's queries, the keys that each sees, and whether a mask halves them.

    How much a block mask leaves, and how long packed sequences are, is known only when the program
    runs. A mask is assumed to be causal, and all sequences to be as long as the longest allowed.
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
