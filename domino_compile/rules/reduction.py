"""Reductions: of other dimensions, slice by slice; over the cut dimension they are partial."""

from __future__ import annotations

from typing import Any

import torch

from domino_compile.axes import PartialMax, PartialSum, Sliced
from domino_compile.axes.sizes import product
from domino_compile.rules.call import Call, Cut, Outcome, Refusal
from domino_compile.rules.rule import RuleFn, Trait, family
from domino_compile.rules.shape import normal

aten = torch.ops.aten
prims = torch.ops.prims

#: Operations for which an empty list of dimensions means none; for others it means all.
EMPTY_IS_NONE = (aten.all.dims, aten.any.dims)
#: Types whose partial sums are kept in float32 until they are added.
LOW_PRECISION = (torch.bfloat16, torch.float16)


def reduced_dims(call: Call) -> tuple[list[int], bool]:
    """Return the dimensions that are reduced, and whether they are kept with extent 1."""
    rank = call.operands[0].rank
    schema = [a.name for a in call.op._schema.arguments]
    dims: Any = None
    for name in ("dim", "dims"):
        if name in schema:
            dims = call.arg(schema.index(name), name)
    keep = (
        bool(call.arg(schema.index("keepdim"), "keepdim", False)) if "keepdim" in schema else False
    )
    if dims is None or (dims == [] and call.op not in EMPTY_IS_NONE):
        return list(range(rank)), keep
    if isinstance(dims, int):
        dims = [dims]
    return [normal(d, rank) for d in dims], keep


def after_reduction(state: Sliced, dims: list[int], keep: bool) -> Sliced:
    """Return the cut state after other dimensions were reduced."""
    return state if keep else Sliced(state.dim - sum(d < state.dim for d in dims), state.outer)


def reduce_beside(call: Call) -> Outcome:
    """Cut a reduction of other dimensions than the cut one, with one or several results."""
    x = call.operands[0]
    assert x.sliced is not None
    dims, keep = reduced_dims(call)
    if x.sliced.dim in dims:
        return Refusal("reduces over the cut dimension")
    out = after_reduction(x.sliced, dims, keep)
    several = bool(call.out) and isinstance(call.out[0], tuple)
    return Cut((x.sliced,), tuple(out for _ in call.out) if several else out)


def sum_(call: Call) -> Outcome:
    """Cut ``sum``: over the cut dimension it is the sum of the slices' sums.

    Low-precision partial sums are computed in float32 and rounded once, at the end.
    """
    x = call.operands[0]
    assert x.sliced is not None
    dims, keep = reduced_dims(call)
    if x.sliced.dim not in dims:
        return Cut((x.sliced,), after_reduction(x.sliced, dims, keep))
    wanted = call.kwargs.get("dtype") or x.dtype
    if wanted not in LOW_PRECISION:
        return Cut((x.sliced,), PartialSum())

    def build(args: tuple[Any, ...], kwargs: dict[str, Any], *_: Any) -> Any:
        return call.op, args, {**kwargs, "dtype": torch.float32}

    finish = ((prims.convert_element_type.default, (wanted,)),)
    return Cut((x.sliced,), PartialSum(), build=build, finish=finish)


def mean(call: Call) -> Outcome:
    """Cut ``mean``: over the cut dimension it is the sum of the slices' sums, divided once."""
    x = call.operands[0]
    assert x.sliced is not None
    dims, keep = reduced_dims(call)
    if x.sliced.dim not in dims:
        return Cut((x.sliced,), after_reduction(x.sliced, dims, keep))
    count = product(x.shape[d] for d in dims)
    wanted = call.kwargs.get("dtype") or x.dtype
    low = wanted in LOW_PRECISION

    def build(args: tuple[Any, ...], *_: Any) -> Any:
        dtype = torch.float32 if low else wanted
        return aten.sum.dim_IntList, (args[0], dims, keep), {"dtype": dtype}

    finish: tuple[tuple[Any, tuple[Any, ...]], ...] = ((aten.div.Tensor, (count,)),)
    if low:
        finish = (*finish, (prims.convert_element_type.default, (wanted,)))
    return Cut((x.sliced,), PartialSum(), build=build, finish=finish)


def any_(call: Call) -> Outcome:
    """Cut ``any``: over the cut dimension it is a sum of booleans, which is their disjunction."""
    x = call.operands[0]
    assert x.sliced is not None
    if x.sliced.dim in reduced_dims(call)[0] and x.dtype is not torch.uint8:
        return Cut((x.sliced,), PartialSum())
    return reduce_beside(call)


def extreme(largest: bool) -> RuleFn:
    """Return the rule for a maximum (or minimum) of all elements, or along dimensions.

    Over the cut dimension it is the largest (or smallest) of the slices' results, without rounding.
    """

    def rule(call: Call) -> Outcome:
        x = call.operands[0]
        assert x.sliced is not None
        dims, keep = reduced_dims(call)
        if x.sliced.dim in dims:
            return Cut((x.sliced,), PartialMax(largest))
        return Cut((x.sliced,), after_reduction(x.sliced, dims, keep))

    return rule


def prims_sum(call: Call) -> Outcome:
    """Cut ``prims.sum(x, dims)``."""
    x = call.operands[0]
    assert x.sliced is not None
    dims = [int(d) for d in call.args[1]]
    if x.sliced.dim in dims:
        return Cut((x.sliced,), PartialSum())
    return Cut((x.sliced,), after_reduction(x.sliced, dims, False))


RULES = {
    **family("sum", sum_, (aten.sum.dim_IntList, aten.sum.default), traits=Trait.REDUCES),
    **family("mean", mean, (aten.mean.dim, aten.mean.default), traits=Trait.REDUCES),
    **family("sum", prims_sum, (prims.sum.default,), traits=Trait.REDUCES),
    **family(
        *("maximum", extreme(True), (aten.amax.default, aten.max.default)), traits=Trait.REDUCES
    ),
    **family(
        *("minimum", extreme(False), (aten.amin.default, aten.min.default)), traits=Trait.REDUCES
    ),
    **family("any", any_, (aten.any.dim, aten.any.dims, aten.any.default), traits=Trait.REDUCES),
    **family(
        "reduction",
        reduce_beside,
        (
            aten.all.dim,
            aten.all.dims,
            aten.all.default,
            aten.argmax.default,
            aten.argmin.default,
            aten.logsumexp.default,
            aten.max.dim,
            aten.min.dim,
            aten.prod.default,
            aten.prod.dim_int,
            aten.std.correction,
            aten.var.correction,
            aten.var_mean.correction,
            aten.linalg_vector_norm.default,
        ),
        traits=Trait.REDUCES,
    ),
}
