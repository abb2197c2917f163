"""A process of ``benchmarks.targets``: one ``domino bench`` that waits between its two halves."""

from __future__ import annotations

from multiprocessing.connection import Connection

from benchmarks.grid_cells import Cell
from benchmarks.lane import Row, Settings
from benchmarks.lane_worker import CellBench, live
from domino_compile.tools.bench.result import BenchResult
from domino_compile.tools.bench.variants import parse_variants


def work(
    cell: Cell, settings: Settings, gpu: str, pipe: Connection, variants: str, rounds: int
) -> None:
    """The whole life of the process.

    Args:
        cell: the workload.
        settings: of all workloads; the kernels' traces go beside their logs.
        gpu: the GPU to use, as in ``CUDA_VISIBLE_DEVICES``; empty on the CPU.
        pipe: to the process that started this one.
        variants: as of ``domino bench``.
        rounds: measured rounds.
    """

    def measure(bench: CellBench, result: BenchResult) -> Row:
        bench.account(result, rounds, settings.logs / str(cell.number))
        return {"number": cell.number} | result.rounded()

    live(cell, settings, gpu, pipe, parse_variants(variants), measure)
