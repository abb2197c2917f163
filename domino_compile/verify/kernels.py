"""Attention kernels by their definition, in any precision and on a CPU.

    weights = softmax(q @ k^T * scale + bias, where the mask allows)      out = weights @ v

with the natural logarithm of the softmax's denominator, ``lse``. Backward computes the weights from
that logarithm, as the kernels do: ``exp(scores - lse)``.
"""

from __future__ import annotations

import math
from typing import Any

import torch

Tensor = torch.Tensor


def _scores(q: Tensor, k: Tensor, bias: Tensor | None, causal: bool, scale: Any) -> Tensor:
    scores: Tensor
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = q @ _heads(k, q).transpose(-1, -2) * scale
    if bias is not None:
        scores = scores.masked_fill(~bias, -math.inf) if bias.dtype is torch.bool else scores + bias
    if causal:
        if q.shape[-2] != k.shape[-2]:
            raise ValueError("kernels differ in how they align a causal mask of unequal lengths")
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = scores.masked_fill(~allowed, -math.inf)
    return scores


def _heads(x: Tensor, like: Tensor) -> Tensor:
    """Return keys or values with as many heads as the queries."""
    return x.repeat_interleave(like.shape[1] // x.shape[1], 1) if x.shape[1] != like.shape[1] else x


def _forward(q: Tensor, k: Tensor, v: Tensor, bias: Any, causal: bool, scale: Any) -> Any:
    scores = _scores(q, k, bias, causal, scale)
    return scores.softmax(-1) @ _heads(v, q), scores.logsumexp(-1)


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Any, out: Tensor, lse: Tensor,
    causal: bool, scale: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    factor = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    lse = lse.reshape(*lse.shape[:3], -1)[..., : q.shape[2], :1].reshape(*lse.shape[:2], -1, 1)
    weights = (_scores(q, k, bias, causal, scale) - lse).exp()
    of_weights = grad @ _heads(v, q).transpose(-1, -2)
    of_scores = weights * (of_weights - (grad * out).sum(-1, keepdim=True))
    gradients = (of_scores @ _heads(k, q) * factor, of_scores.transpose(-1, -2) @ q * factor)
    of_values = weights.transpose(-1, -2) @ grad
    return gradients[0], _summed(gradients[1], k), _summed(of_values, v), of_scores


def _summed(x: Tensor, like: Tensor) -> Tensor:
    shape = (*like.shape[:2], -1, *like.shape[2:])
    return x.reshape(shape).sum(2) if x.shape[1] != like.shape[1] else x


def _no_dropout(dropout: float) -> None:
    if dropout:
        raise ValueError("dropout inside an attention kernel")


_UNUSED = torch.zeros((), dtype=torch.int64)


def for_cpu(q: Any, k: Any, v: Any, dropout: float = 0.0, is_causal: bool = False, *, attn_mask: Any = None, scale: Any = None) -> Any:  # noqa: E501  # fmt: skip
    """``aten._scaled_dot_product_flash_attention_for_cpu``."""
    _no_dropout(dropout)
    return _forward(q, k, v, attn_mask, is_causal, scale)


def for_cpu_backward(grad: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, dropout: float, is_causal: bool, *, attn_mask: Any = None, scale: Any = None) -> Any:  # noqa: E501  # fmt: skip
    """``aten._scaled_dot_product_flash_attention_for_cpu_backward``."""
    _no_dropout(dropout)
    return _backward(grad, q, k, v, attn_mask, out, lse, is_causal, scale)[:3]


def flash(q: Any, k: Any, v: Any, dropout: float = 0.0, is_causal: bool = False, return_debug_mask: bool = False, *, scale: Any = None) -> Any:  # noqa: E501  # fmt: skip
    """``aten._scaled_dot_product_flash_attention``."""
    _no_dropout(dropout)
    out, lse = _forward(q, k, v, None, is_causal, scale)
    return out, lse, None, None, q.shape[2], k.shape[2], _UNUSED, _UNUSED, _UNUSED


def flash_backward(grad: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, cum_q: Any, cum_k: Any, max_q: int, max_k: int, dropout: float, is_causal: bool, seed: Any, offset: Any, *, scale: Any = None) -> Any:  # noqa: E501  # fmt: skip
    """``aten._scaled_dot_product_flash_attention_backward``."""
    _no_dropout(dropout)
    if (max_q, max_k) != (q.shape[2], k.shape[2]):
        raise ValueError("lengths that are not those of queries and keys")
    return _backward(grad, q, k, v, None, out, lse, is_causal, scale)[:3]


def efficient(q: Any, k: Any, v: Any, bias: Any, compute_log_sumexp: bool, dropout: float = 0.0, is_causal: bool = False, *, scale: Any = None) -> Any:  # noqa: E501  # fmt: skip
    """``aten._scaled_dot_product_efficient_attention``; it pads the logarithm's rows to 32."""
    _no_dropout(dropout)
    out, lse = _forward(q, k, v, bias, is_causal, scale)
    rows = -(-q.shape[2] // 32) * 32
    padded = lse.new_full((*lse.shape[:2], rows if compute_log_sumexp else 0), math.inf)
    if compute_log_sumexp:
        padded[..., : q.shape[2]] = lse
    return out, padded, _UNUSED, _UNUSED


def efficient_backward(grad: Any, q: Any, k: Any, v: Any, bias: Any, out: Any, lse: Any, seed: Any, offset: Any, dropout: float, mask: Any, is_causal: bool = False, *, scale: Any = None) -> Any:  # noqa: E501  # fmt: skip
    """``aten._scaled_dot_product_efficient_attention_backward``."""
    _no_dropout(dropout)
    *made, of_scores = _backward(grad, q, k, v, bias, out, lse, is_causal, scale)
    return (*made, of_scores if mask[3] else None)


def cudnn(q: Any, k: Any, v: Any, bias: Any, compute_log_sumexp: bool, dropout: float = 0.0, is_causal: bool = False, return_debug_mask: bool = False, *, scale: Any = None) -> Any:  # noqa: E501  # fmt: skip
    """``aten._scaled_dot_product_cudnn_attention``; its logarithm has a last dimension."""
    _no_dropout(dropout)
    out, lse = _forward(q, k, v, bias, is_causal, scale)
    return out, lse[..., None], None, None, q.shape[2], k.shape[2], _UNUSED, _UNUSED, _UNUSED


def cudnn_backward(grad: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, seed: Any, offset: Any, bias: Any, cum_q: Any, cum_k: Any, max_q: int, max_k: int, dropout: float, is_causal: bool, *, scale: Any = None) -> Any:  # noqa: E501  # fmt: skip
    """``aten._scaled_dot_product_cudnn_attention_backward``."""
    return flash_backward(grad, q, k, v, out, lse, cum_q, cum_k, max_q, max_k, dropout, is_causal, seed, offset, scale=scale)  # noqa: E501  # fmt: skip


_ATTENTION = "aten._scaled_dot_product_"
KERNELS = {
    f"{_ATTENTION}{name}.default": run
    for name, run in {
        "flash_attention_for_cpu": for_cpu,
        "flash_attention_for_cpu_backward": for_cpu_backward,
        "flash_attention": flash,
        "flash_attention_backward": flash_backward,
        "efficient_attention": efficient,
        "efficient_attention_backward": efficient_backward,
        "cudnn_attention": cudnn,
        "cudnn_attention_backward": cudnn_backward,
    }.items()
}
