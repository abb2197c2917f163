"""Arithmetic on tensor extents, static (``int``) or dynamic (``sympy.Expr``).

Nothing here adds a guard. A question about a dynamic extent is answered from its expression
alone, and a statement that cannot be proved counts as false.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

import sympy
import torch

Size: TypeAlias = int | sympy.Expr
Shape: TypeAlias = tuple[Size, ...]


def to_size(value: int | torch.SymInt | sympy.Expr) -> Size:
    """Return a size of torch's as ``int`` or sympy expression."""
    if isinstance(value, torch.SymInt):
        value = value.node.expr
    if isinstance(value, sympy.Expr):
        return int(value) if value.is_Integer else value
    return int(value)


def to_shape(shape: Iterable[int | torch.SymInt]) -> Shape:
    """Return a tensor's shape, with each size as ``int`` or sympy expression."""
    return tuple(to_size(extent) for extent in shape)


def product(sizes: Iterable[Size]) -> Size:
    """Return the product of sizes (1 if there are none)."""
    result: Size = 1
    for size in sizes:
        result = result * size
    return result if isinstance(result, int) else to_size(sympy.expand(result))


@lru_cache(maxsize=4096)  # all layers of a graph ask the same questions
def quotient(numerator: Size, denominator: Size) -> Size | None:
    """Return ``numerator / denominator`` if it is provably a whole number, otherwise ``None``."""
    if isinstance(numerator, int) and isinstance(denominator, int):
        if denominator == 0 or numerator % denominator:
            return None
        return numerator // denominator
    ratio = sympy.cancel(sympy.sympify(numerator) / sympy.sympify(denominator))
    _, below = sympy.fraction(ratio)
    if below != 1 or any(not c.is_Integer for c in ratio.as_coefficients_dict().values()):
        return None
    return to_size(ratio)


def divides(denominator: Size, numerator: Size) -> bool:
    """Return whether ``denominator`` provably divides ``numerator``."""
    return quotient(numerator, denominator) is not None


def same(left: Size, right: Size) -> bool:
    """Return whether two sizes are provably equal."""
    if isinstance(left, int) and isinstance(right, int):
        return left == right
    return bool(sympy.expand(sympy.sympify(left) - sympy.sympify(right)) == 0)
