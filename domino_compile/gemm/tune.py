"""Time the algorithms for a product, alone and beside a collective, and keep the fastest.

The fastest algorithm cannot be predicted: it depends on how tiles divide among the remaining
multiprocessors, and on which of these are in one cluster.

Most products spend only a part of their time beside a collective. An algorithm that divides its
tiles among all multiprocessors beforehand then waits for the last one: 138 instead of 95 us, if a
collective ends after 58 us. An algorithm for the remaining multiprocessors takes the same time
either way. One whose thread blocks take tiles as they come hardly slows down, but must clear a
counter first. An algorithm is therefore judged by the mean of its two times, weighted by that part.
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
#: Additional microseconds of an algorithm with a workspace, in which a counter is cleared first. In
#: a CUDA graph (H200) one kernel follows another within 0.1 us, but such a clear begins 1.5 us
#: after the kernel before, takes 1 us, and the next kernel begins 2.5 us later. Calls that are
#: timed in a row show little of that.
CLEARING_US = 4.5
#: How far a result may be from torch's, as a fraction of its norm: both are rounded to bf16 and add
#: in different orders.
TOLERANCE = 1e-2
#: Cycles of the device's clock that the host gets to issue the timed calls.
HEAD_START_CYCLES = 150_000


@dataclass(frozen=True)
class Way:
    """A way to compute a product.

    Attributes:
        algorithm: of cuBLASLt; ``None``: torch's own choice.
        alone_us: its time, microseconds.
        beside_us: that beside a collective.
    """

    algorithm: Algorithm | None
    alone_us: float
    beside_us: float

    def us(self, share: float) -> float:
        """Return its time if a collective is in flight for a share of it."""
        return (1 - share) * self.alone_us + share * self.beside_us


#: Ways to compute a product, torch's own first.
Ways: TypeAlias = tuple[Way, ...]


def best(ways: Ways, share: float) -> Way:
    """Return the fastest way if a collective is in flight for a share of the time.

    Args:
        ways: torch's own first, which is taken unless another is clearly faster.
        share: the share, 0 to 1.
    """
    own, found = ways[0], min(ways, key=lambda way: way.us(share))
    return found if found.us(share) < (1 - GAIN) * own.us(share) else own


class Stage:
    """Where products are timed: tensors of the right shapes, and a kernel that holds SMs.

    Args:
        problem: the product.
        device: the GPU.
        held: multiprocessors that a collective holds meanwhile; 0: none.
    """

    def __init__(self, problem: Problem, device: torch.device, held: int) -> None:
        self.problem, self.device, self.held = problem, device, held
        self.left, self.right, self.added = operands(problem, device)
        self.out = torch.empty(problem.m, problem.n, dtype=problem.dtype, device=device)
        self.holder = kernel_of(device) if held else None
        self.wire = torch.cuda.Stream(device)

    def torchs_own(self) -> None:
        """The product as torch computes it."""
        if self.added is None:
            torch.mm(self.left, self.right, out=self.out)
        else:
            torch.addmm(self.added, self.left, self.right, out=self.out)

    def run(self, program: Callable[..., None]) -> None:
        """The product by another program."""
        program(self.left, self.right, self.out, self.added)

    def time_us(self, call: Callable[[], None], expected_us: float, beside: bool) -> float:
        """One call's time.

        Args:
            call: what is timed.
            expected_us: about how long it takes.
            beside: whether beside the holding kernel, which holds for several times that.
        """
        compute = torch.cuda.current_stream(self.device)
        _compat.sleep_on_gpu(HEAD_START_CYCLES)
        if beside and self.holder is not None:
            self.wire.wait_stream(compute)
            hold_us = 30 + (CALLS + 1) * 2.5 * expected_us
            self.holder.run(None, hold_us, self.held, True, self.wire)
            _compat.sleep_on_gpu(HEAD_START_CYCLES // 10)  # until its blocks are there
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        call()
        begin.record(compute)
        for _ in range(CALLS):
            call()
        end.record(compute)
        torch.cuda.synchronize(self.device)
        return float(begin.elapsed_time(end)) * 1e3 / CALLS

    def way(
        self,
        algorithm: Algorithm | None,
        call: Callable[[], None],
        expected_us: float,
        extra_us: float,
        times: int = 1,
    ) -> Way:
        """A way and its times, medians of several measurements."""
        alone_us, beside_us = (
            statistics.median(self.time_us(call, expected_us, beside) for _ in range(times))
            for beside in (False, True)
        )
        return Way(algorithm, alone_us + extra_us, beside_us + extra_us)


def operands(
    problem: Problem, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Random factors of a product and what is added to it, laid out as the problem's are.

    They are drawn from a generator of their own. The device's must be left where it is: only one
    rank times a product, and the dropout of all must go on from the same place.
    """
    own = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=problem.dtype, device=device, generator=own)

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
        problem: the product.
        device: the GPU.
        held: multiprocessors that a collective holds.

    Returns:
        Torch's own first, then each that is the fastest for one of ``PARTS``.

    Raises:
        LtError: cuBLASLt is not here.
        RuntimeError: of CUDA, such as too little memory.
    """
    index = device.index or 0
    stage = Stage(problem, device, held)
    stage.torchs_own()
    expected = stage.out.float()
    rough_us = stage.time_us(stage.torchs_own, 1000.0, False)
    extra_us = _torchs_extra_us(problem, index)
    own = stage.way(None, stage.torchs_own, rough_us, extra_us, AGAIN)
    found: dict[Algorithm, Way] = {}
    calls: dict[Algorithm, Callable[[], None]] = {}
    for product, algorithm in _candidates(problem, index, held):
        call = calls[algorithm] = functools.partial(stage.run, product.by(algorithm))
        try:
            right = _is_right(stage, call, expected)
        except LtError:
            continue
        if right:
            found[algorithm] = stage.way(algorithm, call, own.beside_us, _extra_us(algorithm))
    finals = {
        way.algorithm
        for share in PARTS
        for way in heapq.nsmallest(FINALISTS, found.values(), key=lambda way: way.us(share))
    }
    again = [
        stage.way(algorithm, calls[algorithm], own.beside_us, _extra_us(algorithm), AGAIN)
        for algorithm in found
        if algorithm in finals
    ]
    ways = (own, *again)
    chosen = {best(ways, share).algorithm for share in PARTS}
    return (own, *(way for way in again if way.algorithm in chosen))


def _extra_us(algorithm: Algorithm) -> float:
    return CLEARING_US if algorithm.workspace_bytes else 0.0


def _torchs_extra_us(problem: Problem, index: int) -> float:
    """What torch's own choice costs beyond its time: it takes what cuBLASLt lists first.

    On devices before Hopper torch has less memory for it, and that need not be the same one.
    """
    if torch.cuda.get_device_capability(index) < (9, 0):
        return 0.0
    first = next(iter(PreparedProduct(problem, index).algorithms()), None)
    return 0.0 if first is None else _extra_us(first)


def _candidates(
    problem: Problem, index: int, held: int
) -> Iterable[tuple[PreparedProduct, Algorithm]]:
    """Algorithms for the multiprocessors that remain, and for fewer; each once."""
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
    """Whether the result is torch's, up to rounding; every element is written."""
    stage.out.fill_(float("nan"))
    call()
    off = (stage.out.float() - expected).norm() / expected.norm()
    return bool(off < TOLERANCE)
