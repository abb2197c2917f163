"""The cost model's waves and contention, held to what was measured on one H200."""

import math
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch._subclasses import FakeTensorMode

from domino_compile.cost.fused import Fused
from domino_compile.cost.model import CostModel, Work, slowdown, work_of
from domino_compile.cost.rates import CPU, TABLE
from domino_compile.cost.waves import MOST, Product, rows_a_block, time_factor
from domino_compile.links import Contention, load_link
from domino_compile.planner import by_inductor
from domino_compile.scheduling import Unit, UnitGraph, run_order
from domino_compile.scheduling.traffic import Traffic

H200 = TABLE[0]
ATTEND = torch.ops.aten._scaled_dot_product_cudnn_attention.default
#: Rows, contracted extent, columns; microseconds alone, and while 8 to 24 SMs are held. One H200,
#: bf16, cuBLAS as it comes.
MEASURED = [
    (4096, 4096, 2048, 86, 165),
    (4096, 4096, 1536, 78, 128),
    (4096, 2048, 4096, 89, 130),
    (8192, 4096, 2048, 170, 245),
    (8192, 4096, 1536, 129, 205),
    (8192, 2048, 4096, 174, 230),
]


@pytest.mark.parametrize(("rows", "inner", "columns", "alone", "beside"), MEASURED)
def test_products_take_what_was_measured(
    rows: int, inner: int, columns: int, alone: float, beside: float
) -> None:
    product = Product(1, rows, columns, inner)
    assert H200.matmul_us(product, torch.bfloat16) == pytest.approx(alone, rel=0.08)
    assert H200.matmul_us(product, torch.bfloat16, held=16) == pytest.approx(beside, rel=0.08)


#: Heads of all rows of the batch, tokens; microseconds forward and backward. One H200, causal, 128
#: wide, bf16, cuDNN's kernels; the last four in the steps of ``benchmarks.jobs``.
ATTENTION = [
    (32, 1024, 32.9, 78.0),
    (16, 1024, 18.4, 45.9),
    (8, 1024, 16.9, 43.5),
    (4, 1024, 16.7, 42.2),
    (64, 512, 22.9, 52.1),
    (32, 512, 12.3, 28.7),
    (128, 2048, 269.7, 868.4),
    (4, 8192, 170, 429),
    (8, 8192, 272, 704),
    (16, 8192, 462, 1758 - 462),
    (32, 8192, 995, 2505),
]


@pytest.mark.parametrize(("heads", "tokens", "forward", "backward"), ATTENTION)
def test_attention_takes_about_what_was_measured(
    heads: int, tokens: int, forward: float, backward: float
) -> None:
    shape = (1, heads, tokens, 128)
    with FakeTensorMode():
        q = torch.empty(shape, dtype=torch.bfloat16, device="meta")
    graph = torch.fx.Graph()
    inputs = [graph.placeholder(name) for name in "qkv"]
    node = graph.call_function(ATTEND, (*inputs, None, True, 0.0, True))
    for x in (*inputs, node):
        x.meta["val"] = q
    work = work_of(node)
    assert work is not None
    for scale, back, measured in ((1.0, False, forward), (2.5, True, backward)):
        sizes = (work.attention * scale, work.block * scale, work.keys)
        found = H200.attention_us(*sizes, torch.bfloat16, back) + H200.launch_us
        assert found == pytest.approx(measured, rel=0.15)


EFFICIENT = torch.ops.aten._scaled_dot_product_efficient_attention.default


@pytest.mark.parametrize(
    ("target", "before", "behind"),
    [(ATTEND, (None, True, 0.0), ()), (EFFICIENT, (None, True), (0.0,))],
)
def test_only_causal_attention_is_half(
    target: Any, before: tuple[Any, ...], behind: tuple[Any, ...]
) -> None:
    """Training wants the sums of exponentials as well, which is another argument."""
    operations = []
    for causal in (False, True):
        graph = torch.fx.Graph()
        inputs = [graph.placeholder(name) for name in "qkv"]
        node = graph.call_function(target, (*inputs, *before, *behind, causal))
        for x in (*inputs, node):
            x.meta["val"] = torch.empty(1, 8, 256, 64, dtype=torch.bfloat16, device="meta")
        work = work_of(node)
        assert work is not None
        operations.append(work.attention)
    assert operations[0] == 2 * operations[1] == 4.0 * 8 * 256 * 256 * 64


@pytest.mark.parametrize(("columns", "beside"), [(4096, 87), (5120, 105)])
def test_norms_behind_dropout_take_what_was_measured(columns: int, beside: float) -> None:
    elements = 4096 * columns
    bytes_moved = elements * 9  # two values of bf16 read and two written, and a mask
    found = H200.fused_us(Fused(bytes_moved, elements, wide=True), held=16) + H200.launch_us
    assert found == pytest.approx(beside, rel=0.05)


def test_inductors_norms_behind_dropout_take_what_was_measured() -> None:
    elements = 8192 * 4096
    work = Fused(elements * 9, elements, wide=True)
    found = H200.fused_us(work, inductors=True) + H200.launch_us
    assert found == pytest.approx(222, rel=0.05)
    narrow = replace(work, wide=False)  # the same kernel in both programs
    assert H200.fused_us(narrow) == H200.fused_us(narrow, inductors=True)


# Columns of 4096 rows; microseconds of the kernels that a sum over them adds.
@pytest.mark.parametrize(("columns", "added"), [(4096, 10.7), (2048, 11), (1536, 9)])
def test_sums_over_rows_take_about_what_was_measured(columns: int, added: float) -> None:
    """Those of 4096 columns: the mean of a bias behind dropout (18) and a norm's two (7 each)."""
    elements = 4096 * columns
    plain, summed = Fused(elements * 9), Fused(elements * 9, sums=1, summed=elements)
    assert H200.fused_us(summed) - H200.fused_us(plain) == pytest.approx(added, rel=0.25)
    assert CPU.fused_us(summed) == CPU.fused_us(plain)  # a loop of the same kernel


def contended(products: float, memory: float = 1.0) -> CostModel:
    """Of an H200, on a link where that was measured for products of 8192 x 4096 x 4096."""
    found = Contention((8192, 4096, 4096), products, memory, {"all_gather": 1.2}, 0.25)
    link = replace(load_link("h200-nvlink-2-ctas16"), contention=found)
    return CostModel("H200", link, lambda _: 2)


def test_a_link_says_how_much_slower_work_is_beside_its_collectives() -> None:
    half, single = torch.bfloat16, torch.float32
    work = Work(half, Product(1, 8192, 4096, 4096))
    alone_us, beside_us = contended(1.4).work_us(work, 0.0)
    assert slowdown(alone_us, beside_us) == pytest.approx(1.4, rel=0.01)
    plain = CostModel("H200", "h200-nvlink-2-ctas16", lambda _: 2)
    for other in (work, Work(single, Product(1, 512, 512, 64)), Work(half, attention=1e9)):
        times = [contended(x).work_us(other, 1e6) for x in (1.0, 1.3, 2.0)]
        assert {alone for alone, _ in times} == {plain.work_us(other, 1e6)[0]}
        beside = [us for _, us in times]
        assert beside == sorted(beside) and beside[0] >= times[0][0]
    fused = Fused(1e8)
    alone_us, beside_us = contended(1.4, memory=1.25).fused_us(fused)
    assert slowdown(alone_us, beside_us) == pytest.approx(1.25)
    assert plain.fused_us(fused) == (alone_us, alone_us)
    assert (plain.regained, contended(1.4).regained) == (0.0, 0.25)


def test_what_inductor_alone_takes_is_of_its_own_kernels() -> None:
    cost: Any = Mock(fused_us=lambda work, inductors: (work.bytes, 2 * work.bytes))
    launch = Unit(0, [], True, 100.0, "g")
    node = torch.fx.Graph().placeholder("x")
    fused = Unit(1, [node, node], False, 5.0, traffic=Traffic(writes={node: 7}))
    found = by_inductor(UnitGraph([launch, fused], [], set()), cost)
    assert [(unit.cost_us, unit.slowdown) for unit in found.units] == [(100.0, 1.0), (7, 2.0)]
    assert fused.cost_us == 5.0


@pytest.mark.parametrize("rows", [1, 64, 1000, 4096, 100_000])
def test_factors_are_bounded(rows: int) -> None:
    product = Product(1, rows, 4096, 4096)
    alone = time_factor(product, 132)
    assert 1 <= alone <= MOST
    assert alone <= time_factor(product, 132, held=16) <= 2 * MOST
    assert time_factor(product, 0) == time_factor(product, 0, held=0) == 1
    assert time_factor(Product(1, 0, 4096, 4096), 132, held=16) == 1  # an expert without tokens
    assert CPU.held_by(16) == 0  # a collective takes nothing from a CPU's products


def units(*costs: float, slowdown: float = 1.5) -> UnitGraph:
    """A collective of 100 us, and compute that needs nothing of it."""
    launch = Unit(0, [], True, 100.0, "g")
    work = [Unit(i, [], False, c, slowdown=slowdown) for i, c in enumerate(costs, start=1)]
    return UnitGraph([launch, *work], [], set())


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ((50.0,), 100.0),  # 75 us beside the collective
        ((40.0, 40.0), 100.0 + (120 - 100) / 1.5),  # the second is slow until the wire is free
        ((200.0,), 100.0 + (300 - 100) / 1.5),
    ],
)
def test_compute_beside_a_collective_is_slower(costs: tuple[float, ...], expected: float) -> None:
    assert run_order(units(*costs)).total_us == pytest.approx(expected)
    assert run_order(units(*costs, slowdown=1.0)).total_us == max(100.0, sum(costs))


@pytest.mark.parametrize("multiprocessors", [116, 132])
@pytest.mark.parametrize("rows", [100, 2048, 4096, 5000, 8192, 60000])
def test_thread_blocks_of_a_norm_go_in_whole_waves(rows: int, multiprocessors: int) -> None:
    def time(each: int) -> int:
        return math.ceil(math.ceil(rows / each) / (2 * multiprocessors)) * each

    chosen = rows_a_block(rows, multiprocessors)
    assert all(time(chosen) <= time(each) for each in range(16, 65))
    assert rows_a_block(4096, 116) == 18 and rows_a_block(4096, 132) == 16
