"""``products``: mark the matrix products that fly under a collective.

A product beside a collective has fewer multiprocessors than its library thinks; the operations
``mm_beside`` and ``addmm_beside`` (``gemm.op``) are told how many are held, for which part of its
time, and which ranks must compute the same. The others are marked too, as alone: torch copies what
is added to a product before it computes, and takes algorithms that clear a counter first
(``gemm.tune.CLEARING_US``).

Contract: takes a scheduled graph and its predicted times; afterwards some ``mm`` and ``addmm`` are
these operations, with the same names, operands, values and order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from domino_compile.cost.rates import HALVES
from domino_compile.gemm.op import addmm_beside, mm_beside
from domino_compile.gemm.tune import PARTS
from domino_compile.scheduling import Schedule, Span, UnitGraph

aten = torch.ops.aten


@dataclass(frozen=True)
class Marked:
    """What was marked.

    Attributes:
        beside: the names of products that fly under a collective, at least for a part.
        alone: of those that do not.
    """

    beside: list[str]
    alone: list[str]


def mark_products(
    graph: fx.Graph, units: UnitGraph, plan: Schedule, held: int, groups: Sequence[str]
) -> Marked:
    """Mark products in place.

    Args:
        graph: the graph, in its planned order.
        units: its units.
        plan: their predicted times.
        held: multiprocessors that a collective in flight holds.
        groups: the process groups whose ranks run this program.
    """
    wires = [span for span in plan.spans if span.wire]
    marked = Marked([], [])
    for span in plan.computing:
        node = units.units[span.unit].nodes[0]
        if node.graph is not graph or not _is_product(node):
            continue
        share = _share(span, wires)
        _mark(node, held, share, groups)
        (marked.beside if share else marked.alone).append(node.name)
    return marked


def _share(span: Span, wires: Sequence[Span]) -> float:
    """The part of its time for which a collective is in flight, as one of ``PARTS``."""
    time = span.end_us - span.start_us
    part = sum(span.overlap_us(wire) for wire in wires) / time if time > 0.0 else 0.0
    return min(PARTS, key=lambda known: abs(known - part))


def _mark(node: fx.Node, held: int, share: float, groups: Sequence[str]) -> None:
    node.target = mm_beside if node.target is aten.mm.default else addmm_beside
    node.args = (*node.args, held, share, list(groups))
    node.kwargs = {}


def _is_product(node: fx.Node) -> bool:
    """Whether it is a product that the operations can stand for."""
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
