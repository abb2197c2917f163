"""Stand-ins for what one CPU process cannot run: collectives, CUDA attention, seeded draws."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch._inductor.inductor_prims  # registers prims.inductor_random
from torch._higher_order_ops.flex_attention import flex_attention, flex_attention_backward

from domino_compile.ops import tokens
from domino_compile.ops.own_part import own_part as own_part_op
from domino_compile.ops.random_slice import random_slice
from tests.rules.harness import OVERRIDES

aten = torch.ops.aten
c10d: Any = torch.ops._c10d_functional
prims: Any = torch.ops.prims


def all_reduce(calls: list[Any]) -> list[Any]:
    """Sum over ranks, each rank with a tensor of its own."""
    total = sum(args[0] for args in calls)
    return [total.clone() for _ in calls]


def all_gather(calls: list[Any]) -> list[Any]:
    """Stack along dimension 0."""
    whole = torch.cat([args[0] for args in calls])
    return [whole.clone() for _ in calls]


def reduce_scatter(calls: list[Any]) -> list[Any]:
    """Sum, then rank ``r`` keeps part ``r`` of dimension 0."""
    parts = sum(args[0] for args in calls).chunk(len(calls))
    return [part.clone() for part in parts]


def own_part(calls: list[Any]) -> list[Any]:
    """Rank ``r`` takes block ``r`` of a dimension."""
    return [args[0].chunk(len(calls), args[1])[rank].clone() for rank, args in enumerate(calls)]


def all_to_all_tokens(calls: list[Any]) -> list[Any]:
    """Every rank sends what it has, in order, and gets what comes from each rank, in order."""
    _, lengths, back, ranks, _ = calls[0]
    held, dealt = owners(lengths, ranks)
    source, target = (dealt, held) if back else (held, dealt)
    boxes: dict[tuple[int, int], list[Any]] = {}
    for rank, args in enumerate(calls):
        mine = sorted(target[token] for token, owner in enumerate(source) if owner == rank)
        for row, to in zip(args[0], mine, strict=True):
            boxes.setdefault((to, rank), []).append(row)
    return [
        torch.stack([row for sent in range(ranks) for row in boxes.get((rank, sent), [])])
        for rank in range(ranks)
    ]


def arrange_tokens(calls: list[Any]) -> list[Any]:
    """Each rank sorts the tokens that it holds by the rank that they are dealt to, or undoes it."""
    _, lengths, back, ranks, _ = calls[0]
    held, dealt = owners(lengths, ranks)
    results = []
    for rank, args in enumerate(calls):
        mine = [token for token, owner in enumerate(held) if owner == rank]
        order = sorted(range(len(mine)), key=lambda i: dealt[mine[i]])
        if back:
            order = [order.index(i) for i in range(len(order))]
        results.append(args[0][order].clone())
    return results


def owners(lengths: list[int], ranks: int) -> tuple[list[int], list[int]]:
    """The rank that holds each token without a cut, and the rank that the cut gives it to."""
    held = [rank for rank in range(ranks) for _ in range(sum(lengths))]
    dealt = [rank for length in lengths for rank in range(ranks) for _ in range(length)]
    return held, dealt


def broadcast(calls: list[Any]) -> list[Any]:
    """The source's value."""
    return [calls[args[1]][0].clone() for args in calls]


def all_to_all(calls: list[Any]) -> list[Any]:
    """Rank ``r`` gets block ``r`` of every rank, in the order of ranks.

    One rank alone stands for ranks that send each other as much as it gets: all blocks come back.
    """
    if len(calls) == 1:
        return [calls[0][0].clone()]
    sent = [args[0].split(list(args[2])) for args in calls]
    for rank, args in enumerate(calls):
        assert list(args[1]) == [len(blocks[rank]) for blocks in sent]
    return [torch.cat([blocks[rank] for blocks in sent]) for rank in range(len(calls))]


def each_of(single: Any) -> Any:
    """A collective on a list of tensors, one after another."""

    def run(calls: list[Any]) -> list[Any]:
        count = len(calls[0][0])
        found = [single([(a[0][i], *a[1:]) for a in calls]) for i in range(count)]
        return [list(results) for results in zip(*found, strict=True)]

    return run


def wait(calls: list[Any]) -> list[Any]:
    """Nothing to wait for."""
    return [args[0] for args in calls]


def draw(calls: list[Any]) -> list[Any]:
    """The whole draw whose parts ``random_slice`` gives."""
    return [random_slice(size, seed, mode, 0, 0, size[0]) for size, seed, mode in calls]


def forward(
    q: Any, k: Any, v: Any, bias: Any, causal: bool, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention and the log of its denominators, ``(B, heads, S, d)`` and ``(B, heads, S)``."""
    scores = q @ k.transpose(-1, -2) * (scale or 1 / math.sqrt(q.shape[-1]))
    if bias is not None:
        scores = scores + bias
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    lse = scores.logsumexp(-1)
    return (scores - lse[..., None]).exp() @ v, lse


def backward(
    grad: Any, q: Any, k: Any, v: Any, bias: Any, out: Any, lse: Any, causal: bool, scale: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of ``q``, ``k``, ``v`` and the scores, from the saved ``out`` and ``lse``."""
    factor = scale or 1 / math.sqrt(q.shape[-1])
    scores = q @ k.transpose(-1, -2) * factor
    if bias is not None:
        scores = scores + bias
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    weights = (scores - lse[..., None]).exp()
    inner = weights * (grad @ v.transpose(-1, -2) - (grad * out).sum(-1, keepdim=True))
    return inner @ k * factor, inner.transpose(-1, -2) @ q * factor, weights.mT @ grad, inner


def _seed() -> torch.Tensor:
    """A generator's state: another one in every call."""
    return torch.randint(1 << 30, (2,))


def _one(function: Any) -> Any:
    return lambda calls: [function(*args) for args in calls]


def flash(q: Any, k: Any, v: Any, p: float = 0.0, causal: bool = False, *rest: Any) -> Any:
    """``_scaled_dot_product_flash_attention``."""
    out, lse = forward(q, k, v, None, causal, rest[1] if len(rest) > 1 else None)
    return out, lse, None, None, q.shape[2], k.shape[2], _seed(), _seed(), torch.empty(0)


def flash_backward(grad: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, *rest: Any) -> Any:
    """Its gradients."""
    causal, scale = rest[5], rest[8] if len(rest) > 8 else None
    return backward(grad, q, k, v, None, out, lse, causal, scale)[:3]


def efficient(q: Any, k: Any, v: Any, bias: Any, compute_lse: bool, *rest: Any) -> Any:
    """``_scaled_dot_product_efficient_attention``: its log-sum-exp is padded to 32."""
    out, lse = forward(q, k, v, bias, rest[1] if len(rest) > 1 else False, None)
    padded = torch.nn.functional.pad(lse, (0, -lse.shape[-1] % 32), value=torch.inf)
    return out, padded if compute_lse else lse[..., :0], _seed()[0], _seed()[0]


def efficient_backward(
    grad: Any, q: Any, k: Any, v: Any, bias: Any, out: Any, lse: Any, *rest: Any
) -> Any:
    """Its gradients; the bias's only if asked for."""
    mask, causal = rest[3], rest[4] if len(rest) > 4 else False
    lse = lse[..., : q.shape[2]]
    dq, dk, dv, db = backward(grad, q, k, v, bias, out, lse, causal, None)
    return dq, dk, dv, db if mask[3] else None


def cudnn(q: Any, k: Any, v: Any, bias: Any, compute_lse: bool, *rest: Any) -> Any:
    """``_scaled_dot_product_cudnn_attention``."""
    out, lse = forward(q, k, v, bias, rest[1] if len(rest) > 1 else False, None)
    return (
        out, lse[..., None], None, None, q.shape[2], k.shape[2], _seed()[0], _seed()[0],
        torch.empty(0),
    )  # fmt: skip


def cudnn_backward(
    grad: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, seed: Any, offset: Any, bias: Any,
    *rest: Any,
) -> Any:  # fmt: skip
    """Its gradients."""
    return backward(grad, q, k, v, bias, out, lse[..., 0], rest[5], None)[:3]


def overrideable(q: Any, k: Any, v: Any, bias: Any = None, *rest: Any) -> Any:
    """``_scaled_dot_product_fused_attention_overrideable``."""
    out, lse = forward(q, k, v, bias, rest[1] if len(rest) > 1 else False, None)
    return out, lse, None, None, q.shape[2], k.shape[2], _seed()[0], _seed()[0], torch.empty(0)


def overrideable_backward(
    grad: Any, q: Any, k: Any, v: Any, bias: Any, mask: Any, out: Any, lse: Any, *rest: Any
) -> Any:
    """Its gradients."""
    dq, dk, dv, db = backward(grad, q, k, v, bias, out, lse, rest[5], None)
    return dq, dk, dv, db if mask[3] else None


def flex_scores(q: Any, k: Any, score_mod: Any, blocks: Any, scale: float, *captured: Any) -> Any:
    """Scores before and after ``score_mod`` and ``mask_mod``, and the four numbers of each.

    The functions get tensors where torch calls them once for each score, which is much slower.
    """
    before = q @ k.transpose(-1, -2) * scale
    numbers = torch.meshgrid(*map(torch.arange, before.shape), indexing="ij")
    after = score_mod(before, *numbers, *captured[0])
    return before, after.masked_fill(~blocks[-1](*numbers, *captured[1]), -torch.inf), numbers


def flex(
    q: Any, k: Any, v: Any, score_mod: Any, blocks: Any, scale: float, _: Any, *captured: Any
) -> Any:
    """``flex_attention``: the log-sum-exp and the largest score are in powers of two."""
    _, after, _ = flex_scores(q, k, score_mod, blocks, scale, *captured)
    log_two = math.log(2)
    lse = after.logsumexp(-1)
    return after.softmax(-1) @ v, lse / log_two, after.amax(-1) / log_two


def flex_backward(
    q: Any, k: Any, v: Any, out: Any, lse: Any, grad: Any, grad_lse: Any,
    score_mod: Any, gradient: Any, blocks: Any, scale: float, _: Any, *captured: Any,
) -> Any:  # fmt: skip
    """Its gradients."""
    before, after, numbers = flex_scores(q, k, score_mod, blocks, scale, *captured)
    log_two = math.log(2)
    weights = (after - lse[..., None] * log_two).exp()
    inner = grad @ v.mT - (grad * out).sum(-1, keepdim=True) + grad_lse[..., None] / log_two
    inner = gradient(before, *numbers, weights * inner, *captured[0])[0] * scale
    inner = inner.masked_fill(after == -torch.inf, 0)
    dk, dv = inner.mT @ q, weights.mT @ grad
    if k.shape[0] < q.shape[0]:
        dk, dv = dk.sum(0, keepdim=True), dv.sum(0, keepdim=True)
    return inner @ k, dk, dv, tuple(None for _ in captured[0])


OVERRIDES.update(
    {
        own_part_op: own_part,
        tokens.all_to_all_tokens: all_to_all_tokens,
        tokens.arrange_tokens: arrange_tokens,
        c10d.all_reduce.default: all_reduce,
        c10d.all_gather_into_tensor.default: all_gather,
        c10d.reduce_scatter_tensor.default: reduce_scatter,
        c10d.all_to_all_single.default: all_to_all,
        c10d.all_reduce_coalesced.default: each_of(all_reduce),
        c10d.all_gather_into_tensor_coalesced.default: each_of(all_gather),
        c10d.reduce_scatter_tensor_coalesced.default: each_of(reduce_scatter),
        c10d.broadcast.default: broadcast,
        c10d.wait_tensor.default: wait,
        prims.inductor_random.default: draw,
        flex_attention: _one(flex),
        flex_attention_backward: _one(flex_backward),
        aten._scaled_dot_product_flash_attention.default: _one(flash),
        aten._scaled_dot_product_flash_attention_backward.default: _one(flash_backward),
        aten._scaled_dot_product_efficient_attention.default: _one(efficient),
        aten._scaled_dot_product_efficient_attention_backward.default: _one(efficient_backward),
        aten._scaled_dot_product_cudnn_attention.default: _one(cudnn),
        aten._scaled_dot_product_cudnn_attention_backward.default: _one(cudnn_backward),
        aten._scaled_dot_product_fused_attention_overrideable.default: _one(overrideable),
        aten._scaled_dot_product_fused_attention_overrideable_backward.default: _one(
            overrideable_backward
        ),
    }
)
