"""Grouped matrix products: one product for each expert of a mixture.

``_grouped_mm(left, right, offs)`` has four forms. ``E`` experts; ``T`` rows of all of them, one
expert's behind the other's; ``offs``, the ends of the experts' rows::

    (E, M, K) @ (E, K, N)         -> (E, M, N)    an equal number of rows for each expert
    (T, K)    @ (E, K, N), offs   -> (T, N)       forward, and the gradient of the rows
    (M, T)    @ (T, N), offs      -> (E, M, N)    the gradient of the experts' weights
    (E, M, K) @ (K, T), offs      -> (M, T)       rows of each expert times columns

``offs`` counts the rows of the whole batch: a slice of them has other ends, so ``T`` is not cut.
(Rows are sorted by expert in front of the product, which meets all of them anyway.) The experts
and ``M`` can be cut. ``K`` and ``N`` lie side by side in memory, and the kernels want rows of
multiples of 16 bytes: they stay whole.
"""

from __future__ import annotations

import torch

from domino_compile.axes import WHOLE
from domino_compile.rules.call import Call, Cut, Outcome, Refusal
from domino_compile.rules.rule import family

aten = torch.ops.aten

ROWS = "rows of all slices are grouped by expert"
FEATURES = "cuts the rows of a grouped product into pieces"


def grouped_product(call: Call) -> Outcome:
    """``_grouped_mm(left, right, offs, bias, out_dtype)``."""
    left, right, *rest = call.operands
    state = left.sliced or right.sliced
    assert state is not None or rest
    if state is None or (left.sliced and right.sliced and left.sliced != right.sliced):
        return Refusal(ROWS)
    if left.rank == right.rank == 3 and state.dim == 0:
        return Cut((state, state, *(WHOLE for _ in rest)), state)
    row = left.rank - 2
    if left.sliced is not None and right.sliced is None and state.dim == row and left.rank == 3:
        out = state if right.rank == 3 else type(state)(0, state.outer)
        return Cut((state, WHOLE, *(WHOLE for _ in rest)), out)
    tokens = 0 if left.rank == 2 and right.rank == 3 else 1
    return Refusal(ROWS if left.rank == 2 and state.dim == tokens else FEATURES)


RULES = {**family("grouped product", grouped_product, (aten._grouped_mm.default,))}
