"""Scaled-dot-product attention in the forms that stay whole operations, forward and backward.

All take ``(B, heads, S, d)`` tensors; the cut runs along the batch dimension 0 of every
tensor. What the fused kernels use to draw their dropout mask (a philox seed and offset)
has no slice that would reproduce the uncut mask: with dropout inside they are refused.
"""

from __future__ import annotations

from typing import Any

import torch

from domino_compile.axes import WHOLE, PerSlice, Sliced, State, States
from domino_compile.rules.call import Call, Cut, Operand, Outcome, Refusal
from domino_compile.rules.registry import family

aten = torch.ops.aten

#: Positions of the tensors whose dimension 0 is the batch, and of those that are opaque, by name.
OPAQUE = ("cum_seq_q", "cum_seq_k", "philox_seed", "philox_offset", "rng_state", "unused")


def _named(call: Call) -> dict[str, Any]:
    names = [a.name for a in call.op._schema.arguments]
    return {**dict(zip(names, call.args, strict=False)), **call.kwargs}


def _batched(operand: Operand, batch_extent: Any) -> bool:
    return operand.rank > 0 and bool(operand.shape[0] == batch_extent)


def attention(call: Call) -> Outcome:
    """Batch rows of every tensor belong together; each slice is an attention of its own."""
    named = _named(call)
    if named.get("dropout_p"):
        return Refusal("dropout inside fused attention: its mask cannot be drawn slice by slice")
    lead = next((x for x in call.cut_operands() if x.rank >= 3), None)
    if lead is None or lead.sliced is None or lead.sliced.dim != 0:
        return Refusal("attention is cut along another dimension than the batch")
    cut, extent = lead.sliced, lead.shape[0]
    opaque = {named[name].index for name in OPAQUE if isinstance(named.get(name), Operand)}
    inputs: list[States] = []
    for x in call.operands:
        if x.index in opaque or isinstance(x.state, PerSlice):
            inputs.append(x.state)
        else:
            inputs.append(cut if _batched(x, extent) else WHOLE)
    return Cut(tuple(inputs), tuple(_result_state(shape, cut, extent) for shape in call.out))


def _result_state(shape: Any, cut: Sliced, extent: Any) -> State:
    if isinstance(shape, tuple) and len(shape) >= 3 and shape[0] == extent:
        return cut
    return PerSlice()


RULES = {
    **family(
        "attention",
        attention,
        (
            aten._scaled_dot_product_flash_attention_for_cpu.default,
            aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
            aten._scaled_dot_product_flash_attention.default,
            aten._scaled_dot_product_flash_attention_backward.default,
            aten._scaled_dot_product_efficient_attention.default,
            aten._scaled_dot_product_efficient_attention_backward.default,
            aten._scaled_dot_product_cudnn_attention.default,
            aten._scaled_dot_product_cudnn_attention_backward.default,
            aten._scaled_dot_product_fused_attention_overrideable.default,
            aten._scaled_dot_product_fused_attention_overrideable_backward.default,
        ),
    ),
}
