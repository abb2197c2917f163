"""The fastest algorithm for a product beside a collective, by timing all that cuBLASLt offers.

Which one that is cannot be told beforehand: it depends on how the tiles of each divide among the
multiprocessors that remain, and on which of those are in one cluster.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from domino_compile.emulate.cuda import kernel_of
from domino_compile.gemm.cublaslt import Algorithm, LtError, Operand, Problem, Product

#: Fractions of the free multiprocessors for which algorithms are asked: which of them do best is
#: a matter of clusters and tiles.
SHARES = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.79)
#: Calls that are timed together.
CALLS = 4
#: The fastest by one measurement are measured again, as often as this.
FINALISTS, AGAIN = 4, 5
#: By how much an algorithm must be faster than torch's own choice.
GAIN = 0.02
#: What an algorithm that needs memory of its own costs beyond its time: that is cleared first, by
#: an operation that nothing overlaps with in a CUDA graph. Microseconds.
CLEARING_US = 4.0
#: How far a result may be from torch's, as a fraction of its norm: rounding to bf16, in an order
#: of its own.
TOLERANCE = 1e-2
#: How much of the device clock's time the host gets to issue what is timed.
HEAD_START_CYCLES = 150_000


@dataclass(frozen=True)
class Choice:
    """What was found for a product.

    Attributes:
        algorithm: the fastest; ``None`` where torch's own choice is as good.
        us: its time beside the collective, microseconds.
        torch_us: that of torch's own choice.
    """

    algorithm: Algorithm | None
    us: float
    torch_us: float


class Stage:
    """Where products are timed: tensors of the right shapes, and a kernel that holds SMs.

    Args:
        problem: the product.
        device: the GPU.
        held: multiprocessors that a collective holds meanwhile; 0: none.
    """

    def __init__(self, problem: Problem, device: torch.device, held: int) -> None:
        self.problem, self.device, self.held = problem, device, held
        self.left = _matrix(problem.left, problem.dtype, device)
        self.right = _matrix(problem.right, problem.dtype, device)
        self.out = torch.empty(problem.m, problem.n, dtype=problem.dtype, device=device)
        self.added: torch.Tensor | None = None
        if problem.bias:
            self.added = torch.randn(problem.n, dtype=problem.dtype, device=device)
        elif problem.added:
            rows = torch.randn(problem.m, problem.added, dtype=problem.dtype, device=device)
            self.added = rows[:, : problem.n]
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

    def time_us(self, call: Callable[[], None], expected_us: float) -> float:
        """One call's time, beside the holding kernel.

        Args:
            call: what is timed.
            expected_us: about how long it takes; the kernel holds for several times that.
        """
        compute = torch.cuda.current_stream(self.device)
        torch.cuda._sleep(HEAD_START_CYCLES)
        if self.holder is not None:
            self.wire.wait_stream(compute)
            hold_us = 30 + (CALLS + 1) * 2.5 * expected_us
            self.holder.run(None, hold_us, self.held, True, self.wire)
            torch.cuda._sleep(HEAD_START_CYCLES // 10)  # until its blocks are there
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        call()
        begin.record(compute)
        for _ in range(CALLS):
            call()
        end.record(compute)
        torch.cuda.synchronize(self.device)
        return float(begin.elapsed_time(end)) * 1e3 / CALLS

    def middle_us(self, call: Callable[[], None], expected_us: float) -> float:
        """The median of several measurements."""
        return statistics.median(self.time_us(call, expected_us) for _ in range(AGAIN))


def _matrix(operand: Operand, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    runs = torch.randn(operand.columns, operand.ld, dtype=dtype, device=device)[:, : operand.rows]
    return runs.t() if operand.transposed else runs


def tune(problem: Problem, device: torch.device, held: int) -> Choice:
    """Find the fastest algorithm for a product beside a collective that holds multiprocessors.

    Raises:
        LtError: cuBLASLt is not here.
        RuntimeError: of CUDA, such as too little memory.
    """
    index = device.index or 0
    stage = Stage(problem, device, held)
    stage.torchs_own()
    expected = stage.out.float()
    alone_us = stage.time_us(stage.torchs_own, 1000.0)
    torch_us = stage.middle_us(stage.torchs_own, alone_us)
    found = []
    for product, algorithm in _candidates(problem, index, held):
        program = product.by(algorithm)

        def call(program: Callable[..., None] = program) -> None:
            stage.run(program)

        try:
            right = _is_right(stage, call, expected)
        except LtError:
            continue
        if right:
            found.append((stage.time_us(call, torch_us) + _extra_us(algorithm), algorithm, call))
    found.sort(key=lambda entry: entry[0])
    finals = [
        (stage.middle_us(call, torch_us) + _extra_us(algorithm), algorithm)
        for _, algorithm, call in found[:FINALISTS]
    ]
    us, best = min(finals, key=lambda entry: entry[0], default=(torch_us, None))
    if best is None or us > (1 - GAIN) * torch_us:
        return Choice(None, torch_us, torch_us)
    return Choice(best, us, torch_us)


def _extra_us(algorithm: Algorithm) -> float:
    return CLEARING_US if algorithm.workspace_bytes else 0.0


def _candidates(problem: Problem, index: int, held: int) -> Iterable[tuple[Product, Algorithm]]:
    """Algorithms for the multiprocessors that remain, and for fewer; each once."""
    free = torch.cuda.get_device_properties(index).multi_processor_count - held
    seen = set()
    for target in (0, *dict.fromkeys(int(free * share) // 2 * 2 for share in SHARES)):
        product = Product(problem, index, target)
        for algorithm in product.algorithms():
            if algorithm.data not in seen:
                seen.add(algorithm.data)
                yield product, algorithm


def _is_right(stage: Stage, call: Callable[[], None], expected: torch.Tensor) -> bool:
    """Whether the result is torch's, up to rounding; every element is written."""
    stage.out.fill_(float("nan"))
    call()
    off = (stage.out.float() - expected).norm() / expected.norm()
    return bool(off < TOLERANCE)
