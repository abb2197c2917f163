"""The cost model's waves and contention, held to what was measured on one H200."""

import math

import pytest
import torch

from domino_compile.cost.rates import CPU, TABLE
from domino_compile.cost.waves import MOST, Product, rows_a_block, time_factor
from domino_compile.scheduling import Unit, UnitGraph, run_order

H200 = TABLE[0]
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


@pytest.mark.parametrize("rows", [1, 64, 1000, 4096, 100_000])
def test_factors_are_bounded(rows: int) -> None:
    product = Product(1, rows, 4096, 4096)
    alone = time_factor(product, 132)
    assert 1 <= alone <= MOST
    assert alone <= time_factor(product, 132, held=16) <= 2 * MOST
    assert time_factor(product, 0) == time_factor(product, 0, held=0) == 1
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
