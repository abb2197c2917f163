"""A transformer block on a rank's tokens, as sequence parallelism runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F


def block(
    x: Any,
    norm: Any,
    qkv: Any,
    out: Any,
    up: Any,
    down: Any,
    gather: Callable[[Any], Any],
    scatter: Callable[[Any], Any],
    dim: int,
) -> Any:
    """Causal attention with two heads and an MLP; tokens are dimension ``dim``, 0 or 1."""
    h = gather(F.rms_norm(x, x.shape[-1:], norm, 1e-5))
    heads = (h if dim else h.transpose(0, 1)) @ qkv
    q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in heads.chunk(3, -1))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    mixed = mixed.transpose(1, 2).flatten(2)
    x = x + scatter((mixed if dim else mixed.transpose(0, 1)) @ out)
    h = gather(F.rms_norm(x, x.shape[-1:], norm, 1e-5))
    return x + scatter(F.silu(h @ up) @ down)
