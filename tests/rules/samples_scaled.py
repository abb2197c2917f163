"""Samples of scaled products in float8: tensorwise and rowwise scales, experts."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import torch

from tests.rules.harness import Sample
from tests.rules.samples_experts import FEATURES, ROWS, refused
from tests.rules.samples_pointwise import real

aten = torch.ops.aten

CONTRACTED = "sums over the cut dimension"
COLUMNS = "multiples of 16"
SCALE = "only a scale or the added value"
#: ``torch.nn.functional.ScalingType`` and ``SwizzleType`` as the operator takes them.
TENSORWISE, ROWWISE, NO_SWIZZLE = 0, 1, 0
bf16 = torch.bfloat16
M, K, N, E = 5, 32, 16, 3
ENDS = torch.tensor([16, 32, 48], dtype=torch.int32)


def float8(*shape: int) -> torch.Tensor:
    return real(*shape).to(torch.float8_e4m3fn)


def columns(*shape: int) -> torch.Tensor:
    """A right operand, which must be contiguous along its columns."""
    return float8(*shape[:-2], shape[-1], shape[-2]).mT


def scale(*shape: int) -> torch.Tensor:
    return real(*shape, dtype=torch.float32) + 0.5


def sample(op: Any, args: tuple[Any, ...], *pairs: tuple[int, int, str], **kwargs: Any) -> Sample:
    """A scaled product, whose columns are never pulled."""
    return Sample(op, args, kwargs, pull_refused={1: "not pulled"}, **refused(*LEFT, *pairs))


def grouped(
    left: torch.Tensor,
    right: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    offs: torch.Tensor | None = None,
    *_: object,
    **__: object,
) -> torch.Tensor:
    """``_scaled_grouped_mm`` for CPUs, for which torch has none: each row and column is scaled."""
    a = left.to(torch.float32) * scale_a[..., None]
    b = right.to(torch.float32) * scale_b[..., None, :]
    if offs is None:
        return torch.bmm(a, b).to(bf16)
    ends = [0, *offs.tolist()]
    parts = [a[i:j] @ b[e] for e, (i, j) in enumerate(pairwise(ends))]
    return torch.cat(parts).to(bf16)


def scaled(
    left: torch.Tensor,
    right: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    bias: torch.Tensor | None = None,
    *_: object,
    **__: object,
) -> torch.Tensor:
    """``_scaled_mm`` for CPUs: one scale, or one for each row and column."""
    product = (left.to(torch.float32) * scale_a) @ (right.to(torch.float32) * scale_b)
    return (product if bias is None else product + bias).to(bf16)


def scaled_v2(
    left: torch.Tensor,
    right: torch.Tensor,
    scale_a: list[torch.Tensor],
    recipe_a: list[int],
    swizzle_a: list[int],
    scale_b: list[torch.Tensor],
    recipe_b: list[int],
    swizzle_b: list[int],
    bias: torch.Tensor | None = None,
    *_: object,
    **__: object,
) -> torch.Tensor:
    """``_scaled_mm_v2`` for CPUs."""
    del recipe_a, swizzle_a, recipe_b, swizzle_b
    return scaled(left, right, scale_a[0], scale_b[0], bias)


CPU_KERNELS = torch.library.Library("aten", "IMPL")
CPU_KERNELS.impl("_scaled_grouped_mm", grouped, "CPU")
if torch.__version__ < "2.12":  # which scales whole tensors only
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it replaces that kernel
        CPU_KERNELS.impl("_scaled_mm", scaled, "CPU")
    CPU_KERNELS.impl("_scaled_mm_v2", scaled_v2, "CPU")


LEFT: list[tuple[int, int, str]] = [(0, 1, CONTRACTED), (1, 0, CONTRACTED), (1, 1, COLUMNS)]
TENSOR: list[Any] = [float8(M, K), columns(K, N), scale(), scale()]
ROW: list[Any] = [float8(M, K), columns(K, N), scale(M, 1), scale(1, N)]

SCALED = [
    sample(aten._scaled_mm.default, tuple(TENSOR), out_dtype=bf16),
    sample(
        aten._scaled_mm.default,
        (*ROW, real(N, dtype=bf16)),
        *((2, 0, SCALE), (3, 1, SCALE), (4, 0, SCALE)),
        out_dtype=bf16,
    ),
    sample(
        aten._scaled_mm_v2.default,
        (
            *(TENSOR[0], TENSOR[1], [TENSOR[2]], [TENSORWISE], [NO_SWIZZLE]),
            *([TENSOR[3]], [TENSORWISE], [NO_SWIZZLE], None, bf16),
        ),
    ),
    sample(
        aten._scaled_mm_v2.default,
        (
            *(ROW[0], ROW[1], [ROW[2]], [ROWWISE], [NO_SWIZZLE]),
            *([ROW[3]], [ROWWISE], [NO_SWIZZLE], None, bf16),
        ),
        *((2, 0, SCALE), (3, 1, SCALE)),
    ),
]
EXPERTS: list[Any] = [float8(E, 16, K), columns(E, K, N), scale(E, 16), scale(E, N)]
GROUPED = [
    Sample(
        aten._scaled_grouped_mm.default,
        tuple(EXPERTS),
        {"out_dtype": bf16},
        **refused(
            *((0, 2, FEATURES), (1, 1, FEATURES), (1, 2, FEATURES), (2, 0, FEATURES)),
            *((2, 1, FEATURES), (3, 0, FEATURES), (3, 1, FEATURES)),
        ),
    ),
    Sample(
        aten._scaled_grouped_mm.default,
        (float8(48, K), EXPERTS[1], scale(48), EXPERTS[3], ENDS),
        {"out_dtype": bf16},
        **refused(
            *((0, 0, ROWS), (0, 1, FEATURES), (1, 0, FEATURES), (1, 1, FEATURES)),
            *((1, 2, FEATURES), (2, 0, FEATURES), (3, 0, FEATURES), (3, 1, FEATURES)),
            (4, 0, FEATURES),
        ),
    ),
]
SAMPLES = [*SCALED, *GROUPED]
