"""Narrow types: float8 numbers are kept in float64, rounded as float8 rounds them.

Other floating types are run in float64 without rounding, since they stand for real numbers and two
orders of adding them up are both right. Float8 is different: quantising a value is an operation of
the user's program, and quantising two summands is not quantising their sum. So every result that is
declared as float8 is rounded, and a product of quantised values is what its definition says:

    scaled_mm(a, b)[i, j] = sum over k of (a[i, k] * scale_a[i, k]) * (b[k, j] * scale_b[k, j])

with a scale for the whole operand, for each row or column, or for each block of equal extents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from domino_compile.verify.plain import Tensor as Declared

Tensor = torch.Tensor
#: The operation that reads the bits of a value as another type.
BITS = "aten.view.dtype"


def is_float8(dtype: str) -> bool:
    """Return whether a type is one of the float8 types."""
    return dtype.startswith("float8_")


def as_declared(made: Any, declared: Any) -> Any:
    """Return a result as the checker keeps values of its declared type.

    Args:
        made: What an operation has returned.
        declared: The type of the result in the graph.
    """
    if isinstance(declared, tuple) and isinstance(made, (list, tuple)):
        return type(made)(map(as_declared, made, declared))
    if not isinstance(declared, Declared) or not isinstance(made, Tensor):
        return made
    if is_float8(declared.dtype):
        return made.to(getattr(torch, declared.dtype)).to(torch.float64)
    return made


def bits(value: Tensor, source: str, target: str) -> Tensor:
    """Return the bits of a value of one type as numbers of another.

    Args:
        value: The value, as the checker keeps it.
        source: Its type in the graph.
        target: The type that its bits are read as.
    """
    read = value.to(getattr(torch, source)).contiguous().view(getattr(torch, target))
    return read.to(torch.float64) if read.is_floating_point() else read


def scaled_mm(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Any = None,
    scale_result: Any = None, out_dtype: Any = None, use_fast_accum: bool = False,
) -> Tensor:  # fmt: skip
    """``aten._scaled_mm``, for one scale or one for each row and column; others may be swizzled."""
    for scale, shape in ((scale_a, (a.shape[0], 1)), (scale_b, (1, b.shape[1]))):
        if scale.numel() != 1 and tuple(scale.shape) != shape:
            raise ValueError("scales of blocks, whose layout is not known here")
    return _product(a, b, scale_a, scale_b, bias, scale_result)


def _product(a: Tensor, b: Tensor, scale_a: Any, scale_b: Any, bias: Any, over: Any) -> Tensor:
    made = _scaled(a, scale_a) @ _scaled(b, scale_b)
    made = made if bias is None else made + bias
    return made if over is None else made * over


def scaled_mm_v2(
    a: Tensor, b: Tensor, scale_a: Sequence[Tensor], recipe_a: Sequence[int],
    swizzle_a: Sequence[int], scale_b: Sequence[Tensor], recipe_b: Sequence[int],
    swizzle_b: Sequence[int], bias: Any = None, out_dtype: Any = None,
    contraction_dim: Sequence[int] = (), use_fast_accum: bool = False,
) -> Tensor:  # fmt: skip
    """``aten._scaled_mm_v2``, for scales that are not swizzled and have one level."""
    if any((*swizzle_a, *swizzle_b, *contraction_dim)) or len(scale_a) != 1 or len(scale_b) != 1:
        raise ValueError("scales that are swizzled or have several levels")
    return _product(a, b, scale_a[0], scale_b[0], bias, None)


def scaled_grouped_mm(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, offs: Any = None, bias: Any = None,
    scale_result: Any = None, out_dtype: Any = None, use_fast_accum: bool = False,
) -> Tensor:  # fmt: skip
    """``aten._scaled_grouped_mm``, for groups of equal size: the first dimension of both sides."""
    if offs is not None or a.dim() != 3 or b.dim() != 3:
        raise ValueError("groups whose sizes are numbers of a tensor")
    made = (a * scale_a[..., None]) @ (b * scale_b[..., None, :])
    made = made if bias is None else made + bias
    return made if scale_result is None else made * scale_result


def _scaled(value: Tensor, scale: Tensor) -> Tensor:
    """Return a matrix times its scales, each of which is for a block of it."""
    if scale.numel() == 1:
        return value * scale.reshape(())
    if scale.dim() != 2 or any(n % k for n, k in zip(value.shape, scale.shape, strict=True)):
        raise ValueError("scales that are not those of equal blocks")
    for dim, extent in enumerate(value.shape):
        scale = scale.repeat_interleave(extent // scale.shape[dim], dim)
    return value * scale


KERNELS: dict[str, Callable[..., Tensor]] = {
    "aten._scaled_mm.default": scaled_mm,
    "aten._scaled_mm_v2.default": scaled_mm_v2,
    "aten._scaled_grouped_mm.default": scaled_grouped_mm,
}
