"""Waves: how well the tiles or blocks of a kernel fill the multiprocessors of a GPU.

A product of ``m x n`` results is computed in tiles, one per multiprocessor at a time, so its time
grows by whole waves. A collective's thread blocks hold some multiprocessors, and the same tiles
then need more waves. Libraries choose their tiles as if they had the whole device.

The numbers are fitted to one H200 (cuBLAS, bf16, six shapes of 4096 and 8192 rows): within 7 % of
the times measured alone, and of those measured while another kernel held 8 to 24 multiprocessors
(``docs/planning.md``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

#: The rows and columns of the tiles that libraries choose from, and the share of the full rate that
#: they reach. Smaller tiles read the operands more often.
TILES = ((128, 256, 1.0), (128, 128, 0.9))
#: Waves lost beside a collective: tiles run in clusters of multiprocessors, and clusters in which
#: one is held run after the others.
STRANDED_WAVES = 1
#: The largest predicted slowdown of a product. If it does not fill one wave, libraries take smaller
#: tiles or divide the contracted extent.
MOST = 2.0
#: The fewest and the most rows of a norm's gradients that a thread block takes, and the number of
#: such blocks that a multiprocessor runs at once.
BLOCK_ROWS, BLOCKS_AT_ONCE = (16, 64), 2


@dataclass(frozen=True)
class Product:
    """The extents of a matrix product: ``batch`` times ``rows x inner`` by ``inner x columns``."""

    batch: float
    rows: float
    columns: float
    inner: float

    @property
    def operations(self) -> float:
        """The number of multiplications and additions."""
        return 2.0 * self.batch * self.rows * self.columns * self.inner


@cache
def time_factor(product: Product, multiprocessors: int, held: int = 0) -> float:
    """Return a product's time relative to that at the device's full rate (at least 1).

    Args:
        product: The extents of the product.
        multiprocessors: The device's number of multiprocessors; 0 if it has no waves (a CPU).
        held: The number of them that a collective holds meanwhile.
    """
    results = product.batch * product.rows * product.columns
    if not (multiprocessors and results):
        return 1.0
    best, beside = math.inf, 1.0
    for rows, columns, rate in TILES:
        tiles = (
            math.ceil(product.batch)
            * math.ceil(product.rows / rows)
            * math.ceil(product.columns / columns)
        )
        waves = math.ceil(tiles / multiprocessors)
        wave = multiprocessors * rows * columns / (rate * results)
        if waves * wave < best:
            best = waves * wave
            beside = _waves_beside(tiles, multiprocessors - held) / waves if held else 1.0
    return max(1.0, min(best, MOST)) * max(1.0, beside)


def _waves_beside(tiles: int, free: int) -> int:
    free = max(free, 1)
    waves = math.ceil(tiles / free)
    return waves if waves == 1 else waves + STRANDED_WAVES


@cache
def rows_a_block(rows: int, multiprocessors: int) -> int:
    """Return the rows per thread block of a norm's gradients that fill whole waves.

    Inductor assumes the whole device. 4096 rows make 256 blocks of 16 rows, which are one wave on
    132 multiprocessors but two on the 116 that a collective leaves; blocks of 18 rows are 228.

    Args:
        rows: The number of rows of the value that is reduced along both of its dimensions.
        multiprocessors: The number of multiprocessors that are available to the kernel.
    """
    at_once = BLOCKS_AT_ONCE * multiprocessors

    def cost(each: int) -> tuple[int, int]:
        return math.ceil(math.ceil(rows / each) / at_once) * each, each

    least, most = BLOCK_ROWS
    return min(range(least, most + 1), key=cost)
