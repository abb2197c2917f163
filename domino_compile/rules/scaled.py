"""Scaled matrix products: operands in float8, each with a scale by which the result is multiplied.

A scale is one number for the whole operand (*tensorwise*), or one for each row of the left operand
and each column of the right one (*rowwise*). Each scale is cut together with its row or column.
Scales of blocks are not cut.

The contracted extent is not cut. Its slices would be summed in the result's type, while the kernel
sums in float32 and rounds once. The operands are joined instead. They take one byte per element,
and the usual case, the gradient of a weight, is needed last.

The kernels require multiples of 16 columns. ``analysis.columns`` chooses such parts, so it can cut
columns. A cut of the batch cannot, if the batch happens to be the right operand's columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from domino_compile.axes import WHOLE, Sliced, State
from domino_compile.axes.sizes import product, same
from domino_compile.rules.call import Call, Cut, Operand, Outcome, Refusal, by_name
from domino_compile.rules.experts import grouped_product
from domino_compile.rules.rule import family

aten = torch.ops.aten

#: The kernels require widths that are multiples of 16 bytes.
ALIGNMENT = 16
CONTRACTED = "sums over the cut dimension, which a scaled product rounds only once"
COLUMNS = "slices of the columns may not be multiples of 16"
BLOCKS = "its scales belong to blocks of the cut dimension"


def scaled_product(call: Call) -> Outcome:
    """Cut the rows of ``_scaled_mm``."""
    named = by_name(call.op, call.args, call.kwargs)
    left, right = named["self"].sliced, named["mat2"].sliced
    if (left is not None and left.dim == 1) or (right is not None and right.dim == 0):
        return Refusal(CONTRACTED)
    if left is not None:
        return _rows(call, named, left)
    if right is not None:
        return Refusal(COLUMNS)
    return Refusal("only a scale or the added value is cut")


def pull_scaled(call: Call, want: Sliced) -> Outcome:
    """Make rows of the result from the left operand's rows."""
    if want.dim != 0:
        return Refusal("columns of a product are not pulled")
    return _rows(call, by_name(call.op, call.args, call.kwargs), want)


def scaled_columns(call: Call, want: Sliced) -> Outcome:
    """Make columns of the result from the right operand's columns."""
    if want.dim != 1:
        return Refusal("not the columns of the product")
    return _columns(call, by_name(call.op, call.args, call.kwargs), want)


def _rows(call: Call, named: dict[str, Any], cut: Sliced) -> Outcome:
    states = _with_scales(named["self"], named["scale_a"], cut)
    if states is None:
        return Refusal(BLOCKS)
    return _cut(call.operands, states, Sliced(0, cut.outer))


def _columns(call: Call, named: dict[str, Any], cut: Sliced) -> Outcome:
    states = _with_scales(named["mat2"], named["scale_b"], cut)
    if states is None:
        return Refusal(BLOCKS)
    if isinstance(named.get("bias"), Operand):
        states[named["bias"].index] = Sliced(0, cut.outer)
    return _cut(call.operands, states, Sliced(1, cut.outer))


def _with_scales(operand: Operand, scales: Any, cut: Sliced) -> dict[int, State] | None:
    """Return the states of a cut operand and its scales; ``None`` if a scale cannot be cut."""
    states: dict[int, State] = {operand.index: cut}
    for scale in scales if isinstance(scales, Sequence) else (scales,):
        if same(product(scale.shape), 1):
            continue
        elements = [extent for dim, extent in enumerate(scale.shape) if dim != cut.dim]
        if scale.rank != 2 or not same(scale.shape[cut.dim], operand.shape[cut.dim]):
            return None
        if not same(product(elements), 1):
            return None
        states[scale.index] = cut
    return states


def _cut(operands: Iterable[Operand], states: dict[int, State], out: Sliced) -> Cut:
    return Cut(tuple(states.get(x.index, WHOLE) for x in operands), out)


def scaled_grouped_product(call: Call) -> Outcome:
    """Cut ``_scaled_grouped_mm`` with the scales of the experts or rows."""
    named = by_name(call.op, call.args, call.kwargs)
    pairs = ((named["self"], named["scale_a"]), (named["mat2"], named["scale_b"]))
    scales = {scale.index for _, scale in pairs}
    others = tuple(x for x in call.operands if x.index not in scales)
    cut = grouped_product(replace(call, operands=others))
    if isinstance(cut, Refusal):
        return cut
    states = dict(zip((x.index for x in others), cut.inputs, strict=True))
    for operand, scale in pairs:
        state = states[operand.index]
        if isinstance(state, Sliced):
            if state.dim >= scale.rank or not same(
                scale.shape[state.dim], operand.shape[state.dim]
            ):
                return Refusal(BLOCKS)
            states[scale.index] = state
    return replace(cut, inputs=tuple(states.get(x.index, WHOLE) for x in call.operands))


RULES = {
    **family(
        "scaled product",
        scaled_product,
        (aten._scaled_mm.default, aten._scaled_mm_v2.default),
        pull_scaled,
        columns=scaled_columns,
        multiple=ALIGNMENT,
    ),
    **family("scaled grouped product", scaled_grouped_product, (aten._scaled_grouped_mm.default,)),
}
