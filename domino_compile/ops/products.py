"""The operations ``mm_beside`` and ``addmm_beside``: products beside a collective.

::

    mm_beside(left, right, held, share)            left @ right
    addmm_beside(added, left, right, held, share)  added + left @ right

``held`` is the number of multiprocessors that the collective holds, and ``share`` is the share of
the product's time during which it holds them (0 means never). The operations compute the same as
``aten.mm`` and ``aten.addmm``, and call these if nothing better is known: on a CPU, on another
vendor's device, with another dtype, or while a CUDA graph is captured before a choice was made.
Ranks that compute the same product with the same share compute it in the same way, to the last bit,
because the replicas of a layer that is not divided among ranks must not drift apart.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import torch

from domino_compile.gemm.choices import NOTHING, Question, choose
from domino_compile.gemm.cublaslt import LtError, PreparedProduct, Problem, Run, version
from domino_compile.gemm.tune import Ways, best, tune
from domino_compile.ops.library import library

log = logging.getLogger(__name__)

#: Algorithms are chosen for operands whose addresses are multiples of this.
ALIGNMENT = 256

library.define("mm_beside(Tensor left, Tensor right, int held, float share) -> Tensor")
library.define(
    "addmm_beside(Tensor added, Tensor left, Tensor right, int held, float share) -> Tensor"
)

#: The programs of products by shapes, strides, type, device and arguments; ``None`` means torch.
_programs: dict[tuple[Any, ...], Run | None] = {}
#: The ways to compute a product, by product, device and held multiprocessors.
_ways: dict[tuple[Any, ...], Ways] = {}


def run_mm(
    left: torch.Tensor,
    right: torch.Tensor,
    held: int,
    share: float,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute ``left @ right`` for shapes ``(M, K)`` and ``(K, N)``; the result is contiguous."""
    if out is None:
        out = left.new_empty(left.shape[0], right.shape[1])
    if not (left.is_cuda and _computed(out, left, right, None, held, share)):
        torch.mm(left, right, out=out)
    return out


def run_addmm(
    added: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    held: int,
    share: float,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute ``added + left @ right``; ``added`` is ``(M, N)`` or ``(N,)``."""
    if out is None:
        out = left.new_empty(left.shape[0], right.shape[1])
    if not (left.is_cuda and _computed(out, left, right, added, held, share)):
        torch.addmm(added, left, right, out=out)
    return out


def _computed(
    out: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    added: torch.Tensor | None,
    held: int,
    share: float,
) -> bool:
    """Compute a product with the chosen algorithm, if there is one that takes the operands."""
    extra = () if added is None else (added.shape, added.stride(), added.data_ptr() % ALIGNMENT)
    addresses = left.data_ptr() | right.data_ptr() | out.data_ptr()
    key = (
        *(left.shape, left.stride(), right.shape, right.stride(), left.dtype, right.dtype),
        *(addresses % ALIGNMENT, left.device.index, held, share, *extra),
    )
    try:
        program = _programs[key]
    except KeyError:
        if torch.cuda.is_current_stream_capturing():
            return False  # nothing can be timed now
        aligned = addresses % ALIGNMENT == 0 and (not extra or extra[-1] == 0)
        problem = Problem.of(left, right, added) if aligned else None
        program = None if problem is None else _program(problem, left.device, held, share)
        _programs[key] = program
    if program is None:
        return False
    try:
        program(left, right, out, added)
    except LtError as error:
        log.warning("torch computes a matrix product: %s", error)
        _programs[key] = None
        return False
    return True


def _program(problem: Problem, device: torch.device, held: int, share: float) -> Run | None:
    """Return the program that computes a product; ``None`` means torch."""
    key = problem, device.index, held
    if key not in _ways:
        _ways[key] = _timed_ways(problem, device, held)
    way = best(_ways[key], share)
    if way.algorithm is None:
        return None
    try:
        product = PreparedProduct(problem, device.index or 0, way.algorithm.multiprocessors)
    except LtError as error:
        log.info("products are left to torch: %s", error)
        return None
    return product.by(way.algorithm)


def _timed_ways(problem: Problem, device: torch.device, held: int) -> Ways:
    """Time a product in a separate thread, so that a CUDA graph does not own its memory."""
    result = [NOTHING]

    def time_here() -> None:
        try:
            with torch.cuda.device(device), torch.no_grad():
                result[0] = _choose(problem, device, held)
        except (LtError, RuntimeError) as error:
            log.info("products are left to torch: %s", error)

    thread = threading.Thread(target=time_here)
    thread.start()
    thread.join()
    return result[0]


def _choose(problem: Problem, device: torch.device, held: int) -> Ways:
    question = Question(problem, held, torch.cuda.get_device_name(device), version())
    ways = choose(question, lambda: tune(problem, device, held))
    for way in ways:
        log.debug(
            "product %s, %d multiprocessors held: %s: alone %.1f us, beside %.1f us, late %.1f us",
            *(f"{problem.m}x{problem.k}x{problem.n}", held),
            way.algorithm or "torch's own choice",
            *(way.alone_us, way.beside_us, way.late_us),
        )
    return ways


def _mm_meta(left: torch.Tensor, right: torch.Tensor, held: int, share: float) -> torch.Tensor:
    return left.new_empty(left.shape[0], right.shape[1])


def _addmm_meta(
    added: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    held: int,
    share: float,
) -> torch.Tensor:
    return left.new_empty(left.shape[0], right.shape[1])


library.impl("mm_beside", run_mm, "CompositeExplicitAutograd")
library.impl("addmm_beside", run_addmm, "CompositeExplicitAutograd")
torch.library.register_fake("domino_compile::mm_beside", _mm_meta, lib=library)
torch.library.register_fake("domino_compile::addmm_beside", _addmm_meta, lib=library)

mm_beside: Any = torch.ops.domino_compile.mm_beside.default
addmm_beside: Any = torch.ops.domino_compile.addmm_beside.default
