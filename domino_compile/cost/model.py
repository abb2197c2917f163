"""How long an operation of a graph takes: matrix products, attention, collectives, bytes moved."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import fx

from domino_compile.collectives import (
    group_of,
    kind_of,
    payload_of,
    size_hint,
    tensor_bytes,
    tensors_of,
)
from domino_compile.cost.rates import DeviceRates, rates_for
from domino_compile.links import LinkTable, load_link

aten = torch.ops.aten

#: The link tables' names of the functional collectives.
LINK_KINDS = {
    "all_gather_into_tensor": "all_gather",
    "reduce_scatter_tensor": "reduce_scatter",
    "all_gather_into_tensor_coalesced": "all_gather",
    "reduce_scatter_tensor_coalesced": "reduce_scatter",
}
MATMULS = {aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default}


def is_attention(node: fx.Node) -> bool:
    """Whether the node is a fused attention operation, forward or backward."""
    return node.op == "call_function" and _is_called(node.target, "scaled_dot_product")


def is_matmul(node: fx.Node) -> bool:
    """Whether the node is a matrix product, also inside the operations Inductor makes of it."""
    return node.op == "call_function" and (
        node.target in MATMULS or _is_called(node.target, "linear_pointwise")
    )


@cache
def _is_called(target: Any, part: str) -> bool:
    return part in str(target)


class CostModel:
    """Predicted times in microseconds, for one device and one link table a group.

    Args:
        device: where the graph runs.
        link: the table for collectives; ``None`` takes the one assumed for the device.
        group_size: tells the number of ranks of a group by its name.
    """

    def __init__(
        self, device: torch.device, link: LinkTable | str | None, group_size: Callable[[str], int]
    ) -> None:
        self.rates: DeviceRates = rates_for(device)
        self.group_size = group_size
        self._link = load_link(link) if link is not None else None
        self._tables: dict[str, LinkTable] = {}

    def table(self, group: str) -> LinkTable:
        """The link table of a group: the named one, or the device's scaled to the group's size."""
        if group not in self._tables:
            size = max(self.group_size(group), 2)
            table = self._link or load_link(self.rates.link)
            self._tables[group] = table if table.ranks == size else table.scaled_to(size)
        return self._tables[group]

    def wire_us(self, launch: fx.Node) -> float:
        """How long a collective is on the wire."""
        kind = kind_of(launch)
        return self.table(group_of(launch)).time_us(
            LINK_KINDS.get(kind, "all_reduce"), payload_of(launch)
        )

    def compute_us(self, node: fx.Node) -> float | None:
        """How long a matrix product or attention takes; ``None`` for anything else."""
        if is_matmul(node):
            operations = _matmul_operations(node)
        elif is_attention(node):
            operations = _attention_operations(node)
        else:
            return None
        value = next(tensors_of(node.meta.get("val")))
        moved = self.rates.memory_us(self.bytes_of([node]))
        return max(self.rates.matmul_us(operations, value.dtype), moved) + self.rates.launch_us

    def fused_us(self, nbytes: float) -> float:
        """How long one fused kernel takes that moves so many bytes."""
        return self.rates.memory_us(nbytes) + self.rates.launch_us

    def bytes_of(self, nodes: list[fx.Node]) -> int:
        """Bytes that nodes read and write if each runs alone."""
        total = 0
        for node in nodes:
            total += tensor_bytes(node.meta.get("val"))
            total += sum(tensor_bytes(x.meta.get("val")) for x in node.all_input_nodes)
        return total


def _matmul_operations(node: fx.Node) -> float:
    """``2 m n k``, from the result's elements and the contracted extent."""
    value: Any = node.meta["val"]
    left = [x for x in node.args if isinstance(x, fx.Node)]
    if node.target in (aten.addmm.default, aten.baddbmm.default):
        left = left[1:]
    inner = size_hint(left[0].meta["val"].shape[-1])
    return 2.0 * inner * _elements(value)


def _attention_operations(node: fx.Node) -> float:
    """Two products ``S x S x d`` a head (half of it if causal), 2.5 times that in backward."""
    backward = "backward" in str(node.target)
    query, key = (
        x.meta["val"]
        for x in node.args[1 if backward else 0 :][:2]  # one value may be both
        if isinstance(x, fx.Node)
    )
    operations = 4.0 * _elements(query) * size_hint(key.shape[-2])
    if any(arg is True for arg in (*node.args, *node.kwargs.values())):
        operations /= 2
    return operations * (2.5 if backward else 1.0)


def _elements(tensor: torch.Tensor) -> int:
    count = 1
    for extent in tensor.shape:
        count *= size_hint(extent)
    return count
