"""``slice``: what slices add up to a weight's gradient is added up by the products themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from domino_compile.analysis import CutPlan
from domino_compile.passes.slice import slice_graph
from domino_compile.verify.check import Memory, check
from tests.rules.capturing import Captured, capture, copied, fake_group, reduce_from
from tests.verify.graphs import rewritten

aten = torch.ops.aten
BF16, F64 = torch.bfloat16, torch.float64


def step(x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A row-parallel layer whose weight has the gradient ``x.T @ target``: nothing else rounds."""
    return (reduce_from(x @ weight) * target).sum()


def captured(dtype: torch.dtype) -> Captured:
    fake_group()
    generator = torch.Generator().manual_seed(0)
    shapes = [(12, 32, 16), (16, 24), (12, 32, 24)]
    x, weight, target = (torch.randn(s, generator=generator).to(BF16).to(dtype) for s in shapes)
    return capture(step, x, weight.requires_grad_(), target)


def cut(found: Captured, slices: int, in_products: bool) -> fx.Graph:
    plan = found.plan(slices)
    assert isinstance(plan, CutPlan), plan
    graph, env = copied(found.graph)
    moved = CutPlan(plan.chunks, plan.analysis.moved(env))
    made = rewritten(graph, lambda graph: slice_graph(graph, moved, in_products).witness)
    graph.lint()
    check(*made, Memory())
    return graph


def count(graph: fx.Graph, target: Any) -> int:
    return len(graph.find_nodes(op="call_function", target=target))


def gradient(found: Captured, graph: fx.Graph) -> torch.Tensor:
    (of_weight,) = (x for x in found.run(graph) if x.shape == (16, 24))
    return of_weight.double()


@pytest.mark.parametrize("slices", [2, 3])
def test_products_add_and_round_less(slices: int) -> None:
    found = captured(BF16)
    graphs = [cut(found, slices, in_products) for in_products in (False, True)]
    sums, added = ([count(g, op) for g in graphs] for op in (aten.add.Tensor, aten.addmm.default))
    assert sums[0] - sums[1] == added[1] - added[0] == slices - 1
    exact = captured(F64)
    wanted = gradient(exact, exact.graph)
    whole, apart, inside = (
        (gradient(found, graph) - wanted).norm() for graph in (found.graph, *graphs)
    )
    assert inside < 0.9 * apart and inside < 1.5 * whole


def test_full_precision_is_left_alone() -> None:
    """Torch's products in float32 and float64 do not gain from it."""
    found = captured(F64)
    assert count(cut(found, 2, in_products=True), aten.addmm.default) == 0
