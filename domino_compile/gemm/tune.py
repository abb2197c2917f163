"""Time the algorithms for a product, alone and beside a collective, and keep the fastest.

The fastest algorithm cannot be predicted: it depends on how tiles divide among the remaining
multiprocessors, and on which of these are in one cluster.

Most products spend only a part of their time beside a collective. An algorithm that divides its
tiles among all multiprocessors beforehand then waits for the last one: 138 instead of 95 us, if a
collective ends after 58 us. An algorithm for the remaining multiprocessors takes the same time
either way. One whose thread blocks take tiles as they come hardly slows down, but must clear a
counter first. An algorithm is therefore judged by the mean of its two times, weighted by that part.

A product right behind the launch of a collective begins about 2 us before the collective does, and
may leave the wrong multiprocessors: the collective's clusters need neighbours. An algorithm whose
thread blocks took 108 of an H200's 132 let a collective of 16 end 270 us late, and the product
behind it took as much longer. So this is timed too.
"""

from __future__ import annotations

import functools
import heapq
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from domino_compile import _compat
from domino_compile.emulate.cuda import kernel_of
from domino_compile.gemm.cublaslt import (
    WORKSPACE_BYTES,
    Algorithm,
    LtError,
    MatrixLayout,
    PreparedProduct,
    Problem,
)

#: Fractions of the free multiprocessors for which algorithms are requested. Which fraction does
#: best depends on clusters and tiles.
FRACTIONS = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.79)
#: Calls that are timed together.
CALLS = 4
#: The shares of a product's time beside a collective that are distinguished.
PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: How many of the fastest are measured again, and how often.
FINALISTS, AGAIN = 4, 5
#: The share of time that an algorithm must save over torch's own choice.
GAIN = 0.02
#: The price of each microsecond by which a product that has begun delays a collective, in
#: microseconds. Few products follow a launch, and a delay may be hidden.
LATE = 0.1
#: How long the collective that is delayed holds its multiprocessors, and the cycles of the device's
#: clock between the product's beginning and its own.
LATE_HOLD_US, LATER_CYCLES = 20.0, 5_000
#: Additional microseconds of an algorithm with a workspace, in which a counter is cleared first. In
#: a CUDA graph (H200) one kernel follows another within 0.1 us. Such a clear begins 1.5 us after
#: the previous kernel and takes 1 us, and the next kernel begins 2.5 us later. Calls that are timed
#: in a row show little of that.
CLEARING_US = 4.5
#: The largest difference from torch's result, as a fraction of its norm: both are rounded to bf16
#: and add in different orders.
TOLERANCE = 1e-2
#: Cycles of the device's clock that the host gets to issue the timed calls.
HEAD_START_CYCLES = 150_000


@dataclass(frozen=True)
class Way:
    """A way to compute a product.

    Attributes:
        algorithm: cuBLASLt's algorithm; ``None`` for torch's own choice.
        alone_us: The time without a collective, in microseconds.
        beside_us: The time beside a collective, in microseconds.
        late_us: How much later a collective ends if the product has begun before it, in
            microseconds.
    """

    algorithm: Algorithm | None
    alone_us: float
    beside_us: float
    late_us: float = 0.0

    def us(self, share: float) -> float:
        """Return the time in microseconds if a collective is in flight for ``share`` of it.

        This includes a price for the time by which the product delays that collective.
        """
        return (1 - share) * self.alone_us + share * (self.beside_us + LATE * self.late_us)


#: Ways to compute a product, torch's own first.
Ways: TypeAlias = tuple[Way, ...]


def best(ways: Ways, share: float) -> Way:
    """Return the fastest way if a collective is in flight for a share of the time.

    Args:
        ways: The ways, torch's own first. It is taken unless another is clearly faster.
        share: The share of the product's time, 0 to 1.
    """
    default, fastest = ways[0], min(ways, key=lambda way: way.us(share))
    return fastest if fastest.us(share) < (1 - GAIN) * default.us(share) else default


class Stage:
    """Times products: holds tensors of the right shapes, and a kernel that holds multiprocessors.

    Args:
        problem: The product.
        device: The GPU.
        held: The number of multiprocessors that a collective holds meanwhile; 0 for none.
    """

    def __init__(self, problem: Problem, device: torch.device, held: int) -> None:
        self.problem, self.device, self.held = problem, device, held
        self.left, self.right, self.added = operands(problem, device)
        self.out = torch.empty(problem.m, problem.n, dtype=problem.dtype, device=device)
        self.holder = kernel_of(device) if held else None
        self.wire = torch.cuda.Stream(device)

    def run_torch(self) -> None:
        """Compute the product as torch does."""
        if self.added is None:
            torch.mm(self.left, self.right, out=self.out)
        else:
            torch.addmm(self.added, self.left, self.right, out=self.out)

    def run(self, program: Callable[..., None]) -> None:
        """Compute the product by another program."""
        program(self.left, self.right, self.out, self.added)

    def time_us(self, call: Callable[[], None], expected_us: float, beside: bool) -> float:
        """Return the time of one call, in microseconds.

        Args:
            call: The function to time.
            expected_us: The approximate time of a call.
            beside: Whether to time it beside the kernel that holds multiprocessors, for several
                times ``expected_us``.
        """
        compute = torch.cuda.current_stream(self.device)
        _compat.sleep_on_gpu(HEAD_START_CYCLES)
        if beside and self.holder is not None:
            self.wire.wait_stream(compute)
            hold_us = 30 + (CALLS + 1) * 2.5 * expected_us
            self.holder.run(None, hold_us, self.held, True, self.wire)
            _compat.sleep_on_gpu(HEAD_START_CYCLES // 10)  # until its blocks have started
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        call()
        begin.record(compute)
        for _ in range(CALLS):
            call()
        end.record(compute)
        torch.cuda.synchronize(self.device)
        return float(begin.elapsed_time(end)) * 1e3 / CALLS

    def late_us(self, call: Callable[[], None]) -> float:
        """Return how much later a collective ends if a product has begun before it."""
        if self.holder is None:
            return 0.0
        compute = torch.cuda.current_stream(self.device)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        _compat.sleep_on_gpu(HEAD_START_CYCLES)
        self.wire.wait_stream(compute)
        with torch.cuda.stream(self.wire):
            _compat.sleep_on_gpu(LATER_CYCLES)
        begin.record(self.wire)
        call()
        self.holder.run(None, LATE_HOLD_US, self.held, True, self.wire)
        end.record(self.wire)
        torch.cuda.synchronize(self.device)
        return max(0.0, float(begin.elapsed_time(end)) * 1e3 - LATE_HOLD_US)

    def way(
        self,
        algorithm: Algorithm | None,
        call: Callable[[], None],
        expected_us: float,
        extra_us: float,
        times: int = 1,
    ) -> Way:
        """Measure a way to compute the product; its times are medians of ``times`` measurements."""
        alone_us, beside_us = (
            statistics.median(self.time_us(call, expected_us, beside) for _ in range(times))
            for beside in (False, True)
        )
        late_us = statistics.median(self.late_us(call) for _ in range(times))
        return Way(algorithm, alone_us + extra_us, beside_us + extra_us, late_us)


def operands(
    problem: Problem, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return random factors of a product, and the added value, in the problem's layout.

    They are drawn from a separate generator. The device's generator must not advance: only one rank
    times a product, and the dropout masks of all ranks must stay the same.
    """
    separate = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=problem.dtype, device=device, generator=separate)

    def matrix(layout: MatrixLayout) -> torch.Tensor:
        runs = normal(layout.columns, layout.ld)[:, : layout.rows]
        return runs.t() if layout.transposed else runs

    added = None
    if problem.bias:
        added = normal(problem.n)
    elif problem.added:
        added = normal(problem.m, problem.added)[:, : problem.n]
    return matrix(problem.left), matrix(problem.right), added


def tune(problem: Problem, device: torch.device, held: int) -> Ways:
    """Find the fastest ways to compute a product, alone and beside a collective.

    Args:
        problem: The product.
        device: The GPU.
        held: The number of multiprocessors that a collective holds.

    Returns:
        Torch's own way first, then the ways that are the fastest for one of ``PARTS``.

    Raises:
        LtError: cuBLASLt is missing.
        RuntimeError: CUDA failed, for example because of too little memory.
    """
    index = device.index or 0
    stage = Stage(problem, device, held)
    stage.run_torch()
    expected = stage.out.float()
    rough_us = stage.time_us(stage.run_torch, 1000.0, False)
    extra_us = _torchs_extra_us(problem, index)
    default = stage.way(None, stage.run_torch, rough_us, extra_us, AGAIN)
    timed: dict[Algorithm, Way] = {}
    calls: dict[Algorithm, Callable[[], None]] = {}
    for product, algorithm in _candidates(problem, index, held):
        call = calls[algorithm] = functools.partial(stage.run, product.by(algorithm))
        try:
            right = _is_right(stage, call, expected)
        except LtError:
            continue
        if right:
            timed[algorithm] = stage.way(algorithm, call, default.beside_us, _extra_us(algorithm))
    finals = {
        way.algorithm
        for share in PARTS
        for way in heapq.nsmallest(FINALISTS, timed.values(), key=lambda way: way.us(share))
    }
    again = [
        stage.way(algorithm, calls[algorithm], default.beside_us, _extra_us(algorithm), AGAIN)
        for algorithm in timed
        if algorithm in finals
    ]
    ways = (default, *again)
    chosen = {best(ways, share).algorithm for share in PARTS}
    return (default, *(way for way in again if way.algorithm in chosen))


def _extra_us(algorithm: Algorithm) -> float:
    return CLEARING_US if algorithm.workspace_bytes else 0.0


def _torchs_extra_us(problem: Problem, index: int) -> float:
    """Return the additional microseconds of torch's choice, the first algorithm of cuBLASLt's list.

    On devices before Hopper torch has less workspace and may choose another one.
    """
    if torch.cuda.get_device_capability(index) < (9, 0):
        return 0.0
    first = next(iter(PreparedProduct(problem, index).algorithms()), None)
    return 0.0 if first is None else _extra_us(first)


def _candidates(
    problem: Problem, index: int, held: int
) -> Iterable[tuple[PreparedProduct, Algorithm]]:
    """Yield algorithms for the remaining multiprocessors and for fewer of them, each once."""
    free = torch.cuda.get_device_properties(index).multi_processor_count - held
    seen = set()
    for target in (0, *dict.fromkeys(int(free * fraction) // 2 * 2 for fraction in FRACTIONS)):
        product = PreparedProduct(problem, index, target)
        for limit in (0, WORKSPACE_BYTES):
            for algorithm in product.algorithms(limit):
                key = algorithm.data, algorithm.workspace_bytes
                if key not in seen:
                    seen.add(key)
                    yield product, algorithm


def _is_right(stage: Stage, call: Callable[[], None], expected: torch.Tensor) -> bool:
    """Return whether a call writes every element, and the result is torch's up to rounding."""
    stage.out.fill_(float("nan"))
    call()
    off = (stage.out.float() - expected).norm() / expected.norm()
    return bool(off < TOLERANCE)
