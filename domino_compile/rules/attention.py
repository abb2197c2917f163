"""Fused scaled-dot-product attention, forward and backward.

    out[b] = softmax(q[b] @ k[b]^T * scale + bias[b]) @ v[b]

All operations take ``(B, heads, S, d)`` tensors (queries, keys, values, the result and their
gradients) and a log-sum-exp ``(B, heads, ...)``. Batch rows are independent, so all these tensors
are cut along dimension 0. If the mask is causal, they can also be cut along the tokens
(``causal``). A bias (or mask) is broadcast to ``(B, heads, S, S)``. Only a bias with four
dimensions has a batch dimension, whose extent may be 1.

The CUDA kernels draw their dropout mask from a philox seed and offset. No seed and offset of a
slice would reproduce the uncut mask, so attention with dropout is refused. Without dropout each
slice's forward passes its unused generator state to the same slice's backward.
"""

from __future__ import annotations

from typing import Any

import torch

from domino_compile.axes import WHOLE, PerSlice, Sliced, State, States
from domino_compile.axes.sizes import same
from domino_compile.rules.call import Call, Cut, Operand, Outcome, Refusal, by_name
from domino_compile.rules.causal import TOKENS, by_tokens
from domino_compile.rules.pointwise import broadcast_state
from domino_compile.rules.rule import family

aten = torch.ops.aten

#: Why packed attention stays whole: ``cu_seq`` is data, and may begin a sequence anywhere.
PACKED = (
    "packed sequences: only at run time is it known whether they end where rows end; "
    "FlexAttention with a document mask is cut"
)
#: Operations that stay whole, by name: they exist only once ``torch.nn.attention.varlen`` does.
WHOLE_BY_NAME = {
    f"torch_attn.{name}.default": PACKED for name in ("_varlen_attn", "_varlen_attn_backward")
}
#: Arguments that have no batch dimension and are passed on as they are.
OPAQUE = ("cum_seq_q", "cum_seq_k", "philox_seed", "philox_offset", "rng_state", "unused")
#: Arguments that are broadcast to the scores.
BIAS = ("attn_bias", "attn_mask")


def attention(call: Call) -> Outcome:
    """Cut a fused attention along the batch, or along the tokens if its mask is causal."""
    named = by_name(call.op, call.args, call.kwargs)
    if named.get("dropout_p"):
        return Refusal("dropout inside fused attention: its mask cannot be drawn slice by slice")
    if any(isinstance(named.get(x), Operand) for x in ("cum_seq_q", "cum_seq_k")):
        return Refusal(PACKED)
    batch = named["query"].shape[0]
    opaque = {named[name].index for name in OPAQUE if isinstance(named.get(name), Operand)}
    biases = {named[name].index for name in BIAS if isinstance(named.get(name), Operand)}
    rows = [x for x in call.operands if x.index not in opaque | biases]
    if any(not same(x.shape[0], batch) for x in rows):
        return Refusal("queries and keys have different batch extents")
    aligned = rows + [x for x in call.operands if x.index in biases and x.rank == 4]
    cut = next((x.sliced for x in aligned if x.sliced is not None and x.sliced.dim == 0), None)
    if cut is None and any(x.sliced is not None and x.sliced.dim == TOKENS for x in rows):
        return by_tokens(call, named)
    if cut is None:
        return Refusal("attention is cut along a dimension other than the batch or the tokens")
    mask = named.get("grad_input_mask")
    if mask is not None and mask[3] and not all(_has_rows(call.operands[i], batch) for i in biases):
        return Refusal("the bias's gradient is summed over the batch")
    inputs: list[States] = []
    for x in call.operands:
        if x.index in opaque:
            inputs.append(x.state if isinstance(x.state, PerSlice) else WHOLE)
        else:
            inputs.append(broadcast_state(x, cut, 4) if x.index in biases else cut)
    return Cut(tuple(inputs), tuple(result_state(shape, cut, batch) for shape in call.out))


def _has_rows(bias: Operand, batch: Any) -> bool:
    return bias.rank == 4 and same(bias.shape[0], batch)


def result_state(shape: Any, cut: Sliced, batch: Any) -> State:
    """Return a result's state: cut if it has a batch dimension, otherwise per slice."""
    if isinstance(shape, tuple) and len(shape) >= 3 and same(shape[0], batch):
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
