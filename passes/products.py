"""``products``: mark the matrix products that fly under a collective.

A product beside a collective has fewer multiprocessors than its library thinks; the operations
``mm_beside`` and ``addmm_beside`` (``gemm.op``) are told how many are held, and which ranks must
compute the same. Of the other products those that are added to something are marked too, as alone:
torch copies what is added before it computes.

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
from domino_compile.scheduling import Schedule, UnitGraph

aten = torch.ops.aten

#: The part of a product's time that must be under a collective. On Hopper a product that is
#: configured for fewer multiprocessors loses about 10 % where it is alone after all, and one that
#: is not loses 40 % and more beside a collective, but little beside the end of one. In the steps of
#: gpt3-6.7b and gpt3-13b products that were planned to be 20 to 29 % under one were as fast or
#: faster left to torch, those that were planned to be 39 % and more were slower (132 us, 185 so).
LEAST = 1 / 3


@dataclass(frozen=True)
class Marked:
    """What was marked.

    Attributes:
        beside: the names of products that fly under a collective.
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
    over: dict[int, float] = {}
    for wire in plan.spans:
        if wire.wire:
            for span in plan.hidden_under(wire):
                over[span.unit] = over.get(span.unit, 0.0) + span.overlap_us(wire)
    marked = Marked([], [])
    for span in plan.computing:
        node = units.units[span.unit].nodes[0]
        if node.graph is not graph or not _is_product(node):
            continue
        overlap = over.get(span.unit, 0.0)
        if overlap >= LEAST * (span.end_us - span.start_us) > 0:
            _mark(node, held, groups)
            marked.beside.append(node.name)
        elif _is_sum(node):
            _mark(node, 0, groups)
            marked.alone.append(node.name)
    return marked


def _mark(node: fx.Node, held: int, groups: Sequence[str]) -> None:
    node.target = mm_beside if node.target is aten.mm.default else addmm_beside
    node.args = (*node.args, held, list(groups))
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


def _is_sum(node: fx.Node) -> bool:
    """Whether it is added to something of its own size."""
    if node.target is not aten.addmm.default:
        return False
    added: Any = node.args[0]
    value: Any = node.meta["val"]
    return bool(added.meta["val"].shape == value.shape)
