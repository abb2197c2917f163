"""Grouped matrix products: one product for each expert of a mixture.

``_grouped_mm(left, right, offs)`` has four forms. There are ``E`` experts and ``T`` rows in all,
ordered by expert; ``offs`` holds the end of each expert's rows::

    (E, M, K) @ (E, K, N)         -> (E, M, N)    an equal number of rows for each expert
    (T, K)    @ (E, K, N), offs   -> (T, N)       forward, and the gradient of the rows
    (M, T)    @ (T, N), offs      -> (E, M, N)    the gradient of the experts' weights
    (E, M, K) @ (K, T), offs      -> (M, T)       rows of each expert times columns

``offs`` counts the rows of the whole batch, and a slice would need other ends, so ``T`` is not cut.
(The rows are sorted by expert in front of the product, which couples all of them anyway.) The
experts and ``M`` can be cut. ``K`` and ``N`` stay whole: they are contiguous in memory, and the
kernels require rows of multiples of 16 bytes.
"""

from __future__ import annotations

import torch

from domino_compile.axes import WHOLE, Sliced
from domino_compile.rules.call import Call, Cut, Outcome, Refusal
from domino_compile.rules.rule import family

aten = torch.ops.aten

ROWS = "rows of all slices are grouped by expert"
#: The dimensions of left and right that ``offs`` indexes, by their ranks.
ENDED: dict[tuple[int, int], tuple[int | None, int | None]] = {
    (3, 3): (None, None),
    (2, 3): (0, None),
    (2, 2): (1, 0),
    (3, 2): (None, 1),
}
REST = "only experts, or an equal number of rows of each, can be cut"


def grouped_product(call: Call) -> Outcome:
    """Cut ``_grouped_mm(left, right, offs, bias, out_dtype)``."""
    left, right, *rest = call.operands
    whole = tuple(WHOLE for _ in rest)
    state = left.sliced or right.sliced
    if left.rank == right.rank == 3 and state is not None and state.dim == 0:
        return Cut((state, state, *whole), state)
    right_whole = left.rank == 3 and right.sliced is None
    if right_whole and left.sliced is not None and left.sliced.dim == 1:
        dim = 1 if right.rank == 3 else 0
        return Cut((left.sliced, WHOLE, *whole), Sliced(dim, left.sliced.outer))
    cut = [x.sliced.dim if x.sliced is not None else None for x in (left, right)]
    ends = ENDED[left.rank, right.rank]
    met = any(d is not None and d == end for d, end in zip(cut, ends, strict=True))
    return Refusal(ROWS if met else REST)


RULES = {**family("grouped product", grouped_product, (aten._grouped_mm.default,))}
