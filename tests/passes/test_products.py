"""``products``: what flies under a collective is marked, and computes the same."""

from unittest import mock

import pytest
import torch
from torch import fx

from domino_compile.cost import CostModel
from domino_compile.cost.model import work_of
from domino_compile.links import load_link
from domino_compile.ops.products import addmm_beside, mm_beside
from domino_compile.passes import products
from domino_compile.passes.products import mark_products
from domino_compile.passes.schedule import schedule_graph
from domino_compile.pipeline.order import PRODUCTS
from tests.emitted.harness import compile_step, events
from tests.passes.forced import wanted_always
from tests.passes.graphs import Builder, aten

BF16 = torch.bfloat16


def cost() -> CostModel:
    return CostModel("H200", load_link("h200-nvlink-8"), lambda group: 8, configured=True)


def two_chains(dtype: torch.dtype = BF16) -> fx.Graph:
    """An all-reduce, and products: two beside it, one behind it, one that is added to another."""
    b = Builder()
    x, w = b.input("x", 4096, 4096, dtype=dtype), b.input("w", 4096, 4096, dtype=dtype)
    y, bias = b.input("y", 4096, 512, dtype=dtype), b.input("bias", 4096, dtype=dtype)
    reduced = b.all_reduce(b.call(aten.mm.default, x, w))
    beside = b.call(aten.mm.default, y, b.t(y))
    biased = b.call(aten.addmm.default, bias, beside, w)
    after = b.call(aten.mm.default, reduced, w)
    summed = b.call(aten.addmm.default, after, reduced, x)
    return b.output(biased, summed)


def marked(graph: fx.Graph) -> dict[str, tuple[object, ...]]:
    result = schedule_graph(graph, cost(), 0.05)
    found = mark_products(graph, result.units, result.after, 16)
    nodes = {n.name: (n.target, *n.args[-2:]) for n in graph.nodes}
    assert all(nodes[name][2] == part for name, part in found.items())
    return {name: nodes[name] for name in found}


def test_products_under_a_collective_are_marked_so_and_others_as_alone() -> None:
    graph = two_chains()
    before = [n.name for n in graph.nodes]
    found = marked(graph)
    assert found == {
        "mm": (mm_beside, 16, 0.0),
        "mm_1": (mm_beside, 16, 1.0),
        "addmm": (addmm_beside, 16, 0.75),
        "mm_2": (mm_beside, 16, 0.0),
        "addmm_1": (addmm_beside, 16, 0.0),
    }
    assert sorted(n.name for n in graph.nodes) == sorted(before)
    graph.lint()


def test_full_precision_is_left_alone() -> None:
    assert marked(two_chains(torch.float32)) == {}


def test_scaled_sums_are_left_alone() -> None:
    graph = two_chains()
    for node in graph.find_nodes(op="call_function", target=aten.addmm.default):
        node.kwargs = {"alpha": 2}
    assert set(marked(graph)) == {"mm", "mm_1", "mm_2"}


def test_beside_a_collective_a_configured_product_is_predicted_faster() -> None:
    graph = two_chains()
    (product, *_) = graph.find_nodes(op="call_function", target=aten.mm.default)
    plain = CostModel("H200", load_link("h200-nvlink-8"), lambda group: 8)
    work = work_of(product)
    assert work is not None
    alone, beside = cost().work_us(work, 0)
    assert alone < beside < plain.work_us(work, 0)[1]
    assert beside / alone == pytest.approx(132 / 116 * 1.07, rel=0.02)


def test_marked_products_compute_the_same_through_inductor_in_the_planned_order() -> None:
    plain = compile_step(2, batch=4, layers=1, built=True)
    with (
        mock.patch.object(products, "HALVES", (torch.float32,)),
        wanted_always(PRODUCTS),
    ):
        found = compile_step(2, batch=4, layers=1, built=True)
    assert found.loss == plain.loss
    assert all(torch.equal(found.grads[name], grad) for name, grad in plain.grads.items())
    assert "extern_kernels.domino_mm(" in found.codes[1]
    assert "extern_kernels.domino_addmm(" in found.codes[0]
    for schedule, code in zip(found.report.schedules, found.codes, strict=True):
        assert schedule.configured
        assert [event.split(" ")[0] for event in schedule.events] == events(code)
