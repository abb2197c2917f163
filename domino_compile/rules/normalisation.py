"""Operations that couple the elements of some dimensions and keep the shape."""

from __future__ import annotations

import torch

from domino_compile.axes import WHOLE
from domino_compile.rules.call import Call, Cut, Outcome, Refusal
from domino_compile.rules.rule import family
from domino_compile.rules.shape import normal

aten = torch.ops.aten


def along_dim(call: Call) -> Outcome:
    """Cut a softmax, cumulative sum or sort beside the dimension that it acts along."""
    lead = next(call.cut_operands())
    assert lead.sliced is not None
    schema = [a.name for a in call.op._schema.arguments]
    default = next(a.default_value for a in call.op._schema.arguments if a.name == "dim")
    dim = normal(call.arg(schema.index("dim"), "dim", default), lead.rank)
    if dim == lead.sliced.dim:
        return Refusal("acts along the cut dimension")
    inputs = tuple(lead.sliced if x.rank == lead.rank else WHOLE for x in call.operands)
    several = bool(call.out) and isinstance(call.out[0], tuple)
    return Cut(inputs, tuple(lead.sliced for _ in call.out) if several else lead.sliced)


def layer_norm(call: Call) -> Outcome:
    """Cut ``native_layer_norm`` outside the trailing dimensions that it normalises."""
    x = call.operands[0]
    normalized = len(call.arg(1, "normalized_shape"))
    if x.sliced is None or x.sliced.dim >= x.rank - normalized:
        return Refusal("normalises the cut dimension")
    rest = tuple(WHOLE for _ in call.operands[1:])
    return Cut((x.sliced, *rest), (x.sliced, x.sliced, x.sliced))


RULES = {
    **family(
        "along dim",
        along_dim,
        (
            aten._log_softmax.default,
            aten._log_softmax_backward_data.default,
            aten._softmax.default,
            aten._softmax_backward_data.default,
            aten.cumprod.default,
            aten.cumsum.default,
            aten.glu.default,
            aten.glu_backward.default,
            aten.logcumsumexp.default,
            aten.sort.default,
            aten.sort.stable,
            aten.topk.default,
        ),
    ),
    **family("layer norm", layer_norm, (aten.native_layer_norm.default,)),
}
