"""``products``: tell matrix products which collectives run beside them.

A product beside a collective has fewer multiprocessors than its library assumes. The operations
``mm_beside`` and ``addmm_beside`` (``ops.products``) are told how many are held, and during which
share of the product's time. Products without a collective become these operations too, because
torch first copies the value that is added to a product, and uses algorithms that first clear a
counter (``gemm.tune.CLEARING_US``).

Contract: The pass takes a scheduled graph and its predicted times. Afterwards all ``mm`` and
``addmm`` in half precision are these operations, with the same names, operands, values and order.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import fx

from domino_compile.cost.intervals import union_us
from domino_compile.cost.rates import HALVES
from domino_compile.gemm.tune import PARTS
from domino_compile.ops.products import addmm_beside, mm_beside
from domino_compile.scheduling import Schedule, UnitGraph

aten = torch.ops.aten


def mark_products(graph: fx.Graph, units: UnitGraph, plan: Schedule, held: int) -> dict[str, float]:
    """Replace mm/addmm in place by variants that know what share of their time a collective runs.

    Args:
        graph: The graph, in its planned order.
        units: Its units.
        plan: Their predicted times.
        held: The number of multiprocessors that a collective in flight holds.

    Returns:
        The share of each product's time beside a collective, by name; one of ``PARTS``.
    """
    beside: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for wire in plan.occupancies:
        if wire.wire:
            for busy in plan.hidden_under(wire):
                both = max(busy.start_us, wire.start_us), min(busy.end_us, wire.end_us)
                beside[busy.unit].append(both)
    told = {}
    for busy in plan.computing:
        node = units.units[busy.unit].nodes[0]
        if node.graph is not graph or not _is_product(node):
            continue
        time = busy.end_us - busy.start_us
        part = union_us(beside[busy.unit]) / time if time > 0.0 else 0.0
        told[node.name] = min(PARTS, key=lambda known: abs(known - part))
        _tell(node, held, told[node.name])
    return told


def _tell(node: fx.Node, held: int, share: float) -> None:
    node.target = mm_beside if node.target is aten.mm.default else addmm_beside
    node.args = (*node.args, held, share)
    node.kwargs = {}


def _is_product(node: fx.Node) -> bool:
    """Return whether the node is a product that these operations can replace."""
    if node.target not in (aten.mm.default, aten.addmm.default):
        return False
    if any(value != 1 for value in node.kwargs.values()) or not _are_nodes(node.args):
        return False
    values: list[Any] = [x.meta.get("val") for x in (node, *node.all_input_nodes)]
    return (
        all(isinstance(x, torch.Tensor) and x.dtype in HALVES for x in values)
        and len({x.dtype for x in values}) == 1
        and all(isinstance(n, int) for x in values for n in x.shape)
    )


def _are_nodes(args: tuple[Any, ...]) -> bool:
    return all(isinstance(x, fx.Node) for x in args)
