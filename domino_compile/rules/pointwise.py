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
    """Whether torch tags the operation as pointwise, and it is a pure function.

    The tag is not complete (see ``UNTAGGED``), and some operations that carry it are not what a
    rule can treat as pointwise: random ones, and ``equal`` and ``frexp``, whose result is not
    one tensor.
    """
    if not isinstance(op, OpOverload):
        return False
    if torch.Tag.pointwise not in op.tags or torch.Tag.nondeterministic_seeded in op.tags:
        return False
    results = [str(r.type) for r in op._schema.returns]
    return not op._schema.is_mutable and results == ["Tensor"]


def pointwise(call: Call) -> Outcome:
    """Operands are broadcast against the result; all are cut along the same dimension of it."""
    lead = next(call.cut_operands())
    assert lead.sliced is not None
    dim = lead.sliced.dim + len(call.out_shape) - lead.rank
    return pull_pointwise(call, Sliced(dim, lead.sliced.outer))


def rule_by_tag(op: Any) -> Rule:
    """The rule of an operation that only its tag tells to be pointwise."""
    return Rule(op, "pointwise", pointwise, pull_pointwise, Trait.POINTWISE)


def pull_pointwise(call: Call, want: Sliced) -> Outcome:
    """The operands that extend along the wanted dimension are wanted cut along it."""
    rank = len(call.out_shape)
    return Cut(tuple(broadcast_state(x, want, rank) for x in call.operands), want)


def broadcast_state(operand: Operand, out: Sliced, out_rank: int) -> States:
    """The state in which an operand that is broadcast to a cut result is wanted."""
    dim = out.dim - (out_rank - operand.rank)
    if dim < 0 or operand.shape[dim] == 1:
        return WHOLE
    return Sliced(dim, out.outer)


def view_as_real(call: Call) -> Outcome:
    """``(..., n)`` complex to ``(..., n, 2)`` real, and back: leading dimensions stay."""
    (x,) = call.operands
    assert x.sliced is not None
    if x.sliced.dim >= len(call.out_shape):
        return Refusal("the pair of real and imaginary part is cut")
    return Cut((x.sliced,), x.sliced)


def pull_view_as_real(call: Call, want: Sliced) -> Outcome:
    """The inverse of ``view_as_real``."""
    (x,) = call.operands
    if want.dim >= x.rank:
        return Refusal("the pair of real and imaginary part is cut")
    return Cut((want,), want)


#: Pointwise in effect but not tagged so.
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
