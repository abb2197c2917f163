"""Pointwise operations: each element of the result depends on one element of each operand."""

from __future__ import annotations

from typing import Any

import torch

from domino_compile._compat.operators import OpOverload
from domino_compile.axes import WHOLE, Sliced, States
from domino_compile.rules.call import Call, Cut, Operand, Outcome, Refusal
from domino_compile.rules.rule import Rule, Trait, family

aten = torch.ops.aten
prims = torch.ops.prims


def is_tagged_pointwise(op: Any) -> bool:
    """Return whether torch tags the operation as pointwise and it is a pure function.

    The tag is incomplete (see ``UNTAGGED``), and a rule cannot treat some tagged operations as
    pointwise: random ones, and ``equal`` and ``frexp``, whose result is not one tensor.
    """
    if not isinstance(op, OpOverload):
        return False
    if torch.Tag.pointwise not in op.tags or torch.Tag.nondeterministic_seeded in op.tags:
        return False
    results = [str(r.type) for r in op._schema.returns]
    return not op._schema.is_mutable and results == ["Tensor"]


def pointwise(call: Call) -> Outcome:
    """Cut all operands along the same dimension of the result, to which they are broadcast."""
    lead = next(call.cut_operands())
    assert lead.sliced is not None
    dim = lead.sliced.dim + len(call.out_shape) - lead.rank
    return pull_pointwise(call, Sliced(dim, lead.sliced.outer))


def rule_by_tag(op: Any) -> Rule:
    """Return the rule for an operation that is known to be pointwise by its tag only."""
    return Rule(op, "pointwise", pointwise, pull_pointwise, Trait.POINTWISE)


def pull_pointwise(call: Call, want: Sliced) -> Outcome:
    """Pull a pointwise result by cutting the operands that extend along the wanted dimension."""
    rank = len(call.out_shape)
    return Cut(tuple(broadcast_state(x, want, rank) for x in call.operands), want)


def broadcast_state(operand: Operand, out: Sliced, out_rank: int) -> States:
    """Return the required state of an operand that is broadcast to a cut result."""
    dim = out.dim - (out_rank - operand.rank)
    if dim < 0 or operand.shape[dim] == 1:
        return WHOLE
    return Sliced(dim, out.outer)


def view_as_real(call: Call) -> Outcome:
    """Cut ``(..., n)`` complex to ``(..., n, 2)`` real, or back, along a leading dimension."""
    (x,) = call.operands
    assert x.sliced is not None
    if x.sliced.dim >= len(call.out_shape):
        return Refusal("the pair of real and imaginary part is cut")
    return Cut((x.sliced,), x.sliced)


def pull_view_as_real(call: Call, want: Sliced) -> Outcome:
    """Pull ``view_as_real`` or ``view_as_complex``: the inverse of their rule."""
    (x,) = call.operands
    if want.dim >= x.rank:
        return Refusal("the pair of real and imaginary part is cut")
    return Cut((want,), want)


#: Operations that are pointwise but lack torch's tag.
UNTAGGED = (
    aten.alias,
    aten.clone,
    aten.complex,
    aten.conj,
    aten._conj,
    aten._conj_physical,
    aten.conj_physical,
    aten.contiguous,
    aten.copy,
    aten.detach,
    aten.elu_backward,
    aten.fill.Scalar,
    aten.fill.Tensor,
    aten.hardsigmoid_backward,
    aten.hardswish,
    aten.hardswish_backward,
    aten.hardtanh_backward,
    aten.imag,
    aten.leaky_relu_backward,
    aten.lift_fresh_copy,
    aten.masked_fill.Tensor,
    aten.mish_backward,
    aten.polar,
    aten.real,
    aten.resolve_conj,
    aten.softplus_backward,
    aten.to.device,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten._to_copy,
    aten.empty_like,
    aten.full_like,
    aten.ones_like,
    aten.zeros_like,
    prims.convert_element_type,
)

RULES = {
    **family("pointwise", pointwise, UNTAGGED, pull_pointwise, traits=Trait.POINTWISE),
    **family(
        "pointwise",
        view_as_real,
        (aten.view_as_real, aten.view_as_complex),
        pull_view_as_real,
        traits=Trait.POINTWISE,
    ),
}
