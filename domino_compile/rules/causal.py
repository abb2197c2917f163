"""Causal attention cut along the tokens, forward and backward.

The queries of slice ``i`` see the keys of the slices ``0 .. i``. Scores with the keys of the same,
*current* slice form a square with a causal mask; the keys of all earlier slices, the *past*, are
seen by every query. So a slice computes two attentions, and only the square one has a mask. On
squares all kernels align their causal mask alike. On rectangles they differ: flash attention aligns
it to the lower right; the CPU, efficient and cuDNN kernels align it to the upper left::

    current = attention(q_i, k_i,        v_i,        causal)
    past    = attention(q_i, k_0..k_i-1, v_0..v_i-1)
    out     = current and past, weighted by their shares of the softmax's denominator

The kernels save the logarithms of these denominators for their backward. In backward each kernel
gets the *merged* result and logarithm. Its gradients are then exactly the summands of the whole
gradients, because ``exp(score - lse)`` are the weights of the whole softmax. (Ring attention, arXiv
2310.01889, merges forward and backward in the same way.) The gradients of keys and values are a
``PrefixSum``.

A kernel is only cut if its logarithm is known to be the natural one, of scaled scores.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch

from domino_compile.axes import Chunks, PerSlice, Prefix, PrefixSum, Sliced, State, States
from domino_compile.axes.sizes import same
from domino_compile.rules.call import (
    Call,
    Cut,
    Emit,
    Members,
    Operand,
    Outcome,
    Refusal,
    Summands,
    by_name,
    by_schema,
)

aten = torch.ops.aten
prims = torch.ops.prims

#: The tokens' dimension of ``(B, heads, S, d)``.
TOKENS = 2
#: Forward operations whose second result is the natural logarithm of the softmax's denominator,
#: ``(B, heads, S)`` or ``(B, heads, S, 1)``.
FORWARD = (
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
)
BACKWARD = (
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
    aten._scaled_dot_product_flash_attention_backward.default,
    aten._scaled_dot_product_efficient_attention_backward.default,
    aten._scaled_dot_product_cudnn_attention_backward.default,
)
#: Forward operations that pad the rows of the logarithm with infinity.
PADDED = (aten._scaled_dot_product_efficient_attention.default,)
#: Forward operations whose logarithm has a last dimension of extent 1.
WITH_LAST = (aten._scaled_dot_product_cudnn_attention.default,)
#: Arguments that say whether the logarithm is computed.
COMPUTE_LSE = ("compute_log_sumexp",)
LOW_PRECISION = (torch.bfloat16, torch.float16)


def by_tokens(call: Call, named: Mapping[str, Any]) -> Outcome:
    """Cut an attention along the tokens.

    Args:
        call: An attention without dropout, of which a tensor is cut along dimension 2.
        named: The arguments of the call by name.
    """
    if call.op not in FORWARD + BACKWARD:
        return Refusal(
            "the log-sum-exp of this kernel has an unknown base, so its tokens are not cut"
        )
    if not named.get("is_causal"):
        return Refusal("attention without a causal mask: every token may see all others")
    if any(isinstance(named.get(x), Operand) for x in ("attn_bias", "attn_mask")):
        return Refusal("causal attention with a bias or another mask")
    query, key = named["query"], named["key"]
    if not same(query.shape[TOKENS], key.shape[TOKENS]):
        return Refusal("causal attention with different numbers of queries and keys")
    backward = call.op in BACKWARD
    if backward and not isinstance(named["logsumexp"].state, PerSlice):
        return Refusal("its forward is not cut along the tokens")
    if any(x.sliced is not None and x.sliced != Sliced(TOKENS) for x in call.operands):
        return Refusal("attention is cut along a dimension other than the batch or the tokens")
    inputs = tuple(_wanted(x, named) for x in call.operands)
    expand = _backward(call) if backward else _forward(call)
    return Cut(inputs, _results(call, backward), expand=expand)


def _wanted(operand: Operand, named: Mapping[str, Any]) -> States:
    """Return the required state of an operand."""
    if operand is named["key"] or operand is named["value"]:
        return Prefix(TOKENS)
    names = ("query", "grad_out", "grad_out_", "out")
    if any(operand is named.get(name) for name in names):
        return Sliced(TOKENS)
    return operand.state  # the logarithm, or the unused state of a random number generator


def _results(call: Call, backward: bool) -> tuple[State, ...]:
    tokens, per_slice = Sliced(TOKENS), PerSlice()
    first: tuple[State, ...] = (tokens, per_slice)
    if backward:
        first = (tokens, PrefixSum(TOKENS), PrefixSum(TOKENS))
    return (*first, *(per_slice for _ in call.out[len(first) :]))


def _forward(call: Call) -> Any:
    dtype = next(iter(call.operands)).dtype

    def expand(
        emit: Emit, args: tuple[Any, ...], kwargs: dict[str, Any], chunks: Chunks, index: int
    ) -> Any:
        given = by_name(call.op, args, kwargs)
        *_, current_keys = given["key"]
        *_, current_values = given["value"]
        if index > 0:
            given |= {name: True for name in COMPUTE_LSE if name in given}
        current = _call(emit, call.op, {**given, "key": current_keys, "value": current_values})
        if index == 0:
            return current
        past = _call(emit, call.op, {**given, **_past(emit, given), "is_causal": False})
        rows = chunks.part_of(call.out[0][TOKENS], index)
        return Members(current, dict(enumerate(_merged(emit, call.op, current, past, rows, dtype))))

    return expand


def _merged(
    emit: Emit, op: Any, current: Any, past: Any, rows: Any, dtype: torch.dtype | None
) -> tuple[Any, Any]:
    """Merge two attentions to different keys; return the result and its denominator's logarithm."""
    (current_out, current_lse), (past_out, past_lse) = (
        [emit(operator.getitem, x, i) for i in (0, 1)] for x in (current, past)
    )
    more = emit(aten.sub.Tensor, current_lse, past_lse)
    gap = emit(aten.neg.default, emit(aten.abs.default, more))
    rest = emit(aten.log1p.default, emit(aten.exp.default, gap))
    lse = emit(aten.add.Tensor, emit(aten.maximum.default, current_lse, past_lse), rest)
    if op in PADDED:  # the padding is infinite, and backward relies on that
        lse = emit(aten.where.self, emit(aten.isinf.default, current_lse), current_lse, lse)
        more = emit(aten.slice.Tensor, more, TOKENS, 0, rows)
    share = emit(aten.sigmoid.default, more)
    other = emit(aten.sigmoid.default, emit(aten.neg.default, more))
    if op not in WITH_LAST:
        share, other = (emit(aten.unsqueeze.default, x, -1) for x in (share, other))
    terms = (emit(aten.mul.Tensor, current_out, share), emit(aten.mul.Tensor, past_out, other))
    out = emit(aten.add.Tensor, *terms)
    if dtype in LOW_PRECISION:
        out = emit(prims.convert_element_type.default, out, dtype)
    return out, lse


def _backward(call: Call) -> Any:
    def expand(
        emit: Emit, args: tuple[Any, ...], kwargs: dict[str, Any], chunks: Chunks, index: int
    ) -> Any:
        given = by_name(call.op, args, kwargs)
        *_, current_keys = given["key"]
        *_, current_values = given["value"]
        extent = by_name(call.op, call.args, call.kwargs)["query"].shape[TOKENS]
        rows, before = chunks.part_of(extent, index), chunks.start_in(extent, index)
        if "max_q" in given:
            given |= {"max_q": rows, "max_k": rows}
        current = _call(emit, call.op, {**given, "key": current_keys, "value": current_values})
        if index == 0:
            return current
        given |= {**_past(emit, given), "is_causal": False}
        if "max_k" in given:
            given["max_k"] = before
        past = _call(emit, call.op, given)
        pairs = [[emit(operator.getitem, x, i) for x in (past, current)] for i in range(3)]
        query = emit(aten.add.Tensor, *pairs[0])
        return Members(current, {0: query, 1: Summands(*pairs[1]), 2: Summands(*pairs[2])})

    return expand


def _past(emit: Emit, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys and the values of all earlier slices, each in one tensor."""
    return {
        name: chunks[0] if len(chunks) == 1 else emit(aten.cat.default, list(chunks), TOKENS)
        for name in ("key", "value")
        for chunks in [given[name][:-1]]
    }


def _call(emit: Emit, op: Any, given: Mapping[str, Any]) -> Any:
    args, kwargs = by_schema(op, given)
    return emit(op, *args, **kwargs)
