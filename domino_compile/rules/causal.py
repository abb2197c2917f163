"""Causal attention cut along the tokens, forward and backward.

Queries of slice ``i`` see the keys of the slices ``0 .. i``. Those of its own slice are a causal
square, and those of the slices before, its *past*, are seen by every query. So a slice is two
attentions that need no alignment of a mask, and the kernels' own causal mask is used on squares
only, where all of them agree (on rectangles they do not: flash aligns it to the lower right, the
CPU's, the efficient and cuDNN's to the upper left)::

    own  = attention(q_i, k_i,       v_i,       causal)
    past = attention(q_i, k_0..k_i-1, v_0..v_i-1)
    out  = own, past weighted by their shares of the softmax's denominator

The denominators' logarithms are what the kernels save for their backward. Backward gives each
kernel the *merged* result and logarithm: then its gradients are exactly the summands of the whole
ones, since ``exp(score - lse)`` are the whole softmax's weights. (Ring attention, arXiv 2310.01889,
merges forward and backward in the same way.) The gradient of keys and values is a ``PrefixSum``.

Only kernels are cut whose logarithm is known to be the natural one, of scaled scores.
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
#: Of those, the ones that pad the logarithm's rows, with infinity, and the ones that keep a last
#: dimension of extent 1.
PADDED = (aten._scaled_dot_product_efficient_attention.default,)
WITH_LAST = (aten._scaled_dot_product_cudnn_attention.default,)
#: Arguments that say whether the logarithm is computed.
COMPUTE_LSE = ("compute_log_sumexp",)
LOW_PRECISION = (torch.bfloat16, torch.float16)


def by_tokens(call: Call, named: Mapping[str, Any]) -> Outcome:
    """The attention of ``call`` with its tokens cut.

    Args:
        call: of an attention without dropout; at least one of its tensors is cut along dimension 2.
        named: its arguments by name.
    """
    if call.op not in FORWARD + BACKWARD:
        return Refusal("the tokens of this attention kernel cannot be cut: its log-sum-exp's base")
    if not named.get("is_causal"):
        return Refusal("attention without a causal mask: every token may see every other")
    if any(isinstance(named.get(x), Operand) for x in ("attn_bias", "attn_mask")):
        return Refusal("causal attention with a bias or another mask")
    query, key = named["query"], named["key"]
    if not same(query.shape[TOKENS], key.shape[TOKENS]):
        return Refusal("causal attention of queries to more, or fewer, keys")
    backward = call.op in BACKWARD
    if backward and not isinstance(named["logsumexp"].state, PerSlice):
        return Refusal("its forward is not cut along the tokens")
    if any(x.sliced is not None and x.sliced != Sliced(TOKENS) for x in call.operands):
        return Refusal("attention is cut along another dimension than the batch or the tokens")
    inputs = tuple(_wanted(x, named) for x in call.operands)
    expand = _backward(call) if backward else _forward(call)
    return Cut(inputs, _results(call, backward), expand=expand)


def _wanted(operand: Operand, named: Mapping[str, Any]) -> States:
    """The state in which an operand is wanted."""
    if operand is named["key"] or operand is named["value"]:
        return Prefix(TOKENS)
    names = ("query", "grad_out", "grad_out_", "out")
    if any(operand is named.get(name) for name in names):
        return Sliced(TOKENS)
    return operand.state  # the logarithm, and the unused state of a random number generator


def _results(call: Call, backward: bool) -> tuple[State, ...]:
    tokens, mine = Sliced(TOKENS), PerSlice()
    first: tuple[State, ...] = (tokens, mine)
    if backward:
        first = (tokens, PrefixSum(TOKENS), PrefixSum(TOKENS))
    return (*first, *(mine for _ in call.out[len(first) :]))


def _forward(call: Call) -> Any:
    dtype = next(iter(call.operands)).dtype

    def expand(
        emit: Emit, args: tuple[Any, ...], kwargs: dict[str, Any], chunks: Chunks, index: int
    ) -> Any:
        given = by_name(call.op, args, kwargs)
        *_, own_keys = given["key"]
        *_, own_values = given["value"]
        if index > 0:
            given |= {name: True for name in COMPUTE_LSE if name in given}
        own = _call(emit, call.op, {**given, "key": own_keys, "value": own_values})
        if index == 0:
            return own
        past = _call(emit, call.op, {**given, **_past(emit, given), "is_causal": False})
        rows = chunks.part_of(call.out[0][TOKENS], index)
        return Members(own, dict(enumerate(_merged(emit, call.op, own, past, rows, dtype))))

    return expand


def _merged(
    emit: Emit, op: Any, own: Any, past: Any, rows: Any, dtype: torch.dtype | None
) -> tuple[Any, Any]:
    """The result, and the logarithm of its denominator, of two attentions to different keys."""
    (own_out, own_lse), (past_out, past_lse) = (
        [emit(operator.getitem, x, i) for i in (0, 1)] for x in (own, past)
    )
    more = emit(aten.sub.Tensor, own_lse, past_lse)
    gap = emit(aten.neg.default, emit(aten.abs.default, more))
    rest = emit(aten.log1p.default, emit(aten.exp.default, gap))
    lse = emit(aten.add.Tensor, emit(aten.maximum.default, own_lse, past_lse), rest)
    if op in PADDED:  # rows beyond the last are infinite, which their backward relies on
        lse = emit(aten.where.self, emit(aten.isinf.default, own_lse), own_lse, lse)
        more = emit(aten.slice.Tensor, more, TOKENS, 0, rows)
    share = emit(aten.sigmoid.default, more)
    other = emit(aten.sigmoid.default, emit(aten.neg.default, more))
    if op not in WITH_LAST:
        share, other = (emit(aten.unsqueeze.default, x, -1) for x in (share, other))
    terms = (emit(aten.mul.Tensor, own_out, share), emit(aten.mul.Tensor, past_out, other))
    out = emit(aten.add.Tensor, *terms)
    if dtype in LOW_PRECISION:
        out = emit(prims.convert_element_type.default, out, dtype)
    return out, lse


def _backward(call: Call) -> Any:
    def expand(
        emit: Emit, args: tuple[Any, ...], kwargs: dict[str, Any], chunks: Chunks, index: int
    ) -> Any:
        given = by_name(call.op, args, kwargs)
        *_, own_keys = given["key"]
        *_, own_values = given["value"]
        extent = by_name(call.op, call.args, call.kwargs)["query"].shape[TOKENS]
        rows, before = chunks.part_of(extent, index), chunks.start_in(extent, index)
        if "max_q" in given:
            given |= {"max_q": rows, "max_k": rows}
        own = _call(emit, call.op, {**given, "key": own_keys, "value": own_values})
        if index == 0:
            return own
        given |= {**_past(emit, given), "is_causal": False}
        if "max_k" in given:
            given["max_k"] = before
        past = _call(emit, call.op, given)
        pairs = [[emit(operator.getitem, x, i) for x in (past, own)] for i in range(3)]
        query = emit(aten.add.Tensor, *pairs[0])
        return Members(own, {0: query, 1: Summands(*pairs[1]), 2: Summands(*pairs[2])})

    return expand


def _past(emit: Emit, given: Mapping[str, Any]) -> dict[str, Any]:
    """Keys and values of the slices before, each in one tensor."""
    return {
        name: chunks[0] if len(chunks) == 1 else emit(aten.cat.default, list(chunks), TOKENS)
        for name in ("key", "value")
        for chunks in [given[name][:-1]]
    }


def _call(emit: Emit, op: Any, given: Mapping[str, Any]) -> Any:
    args, kwargs = by_schema(op, given)
    return emit(op, *args, **kwargs)
