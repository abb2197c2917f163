"""Samples of fused attention, forward and backward."""

from __future__ import annotations

from typing import Any

import torch

from tests.rules import reference
from tests.rules.harness import Sample
from tests.rules.samples_pointwise import real

aten = torch.ops.aten

B, H, S, D = 4, 2, 3, 2
OTHER = "along a dimension other than the batch"
#: Why one attention alone is not cut along its tokens: the samples return its log-sum-exp, a
#: backward is cut only where its forward is (``test_causal`` has both together).
FORWARD, BACKWARD = "per-slice state is needed whole", "its forward is not cut along the tokens"
UNKNOWN, NOT_CAUSAL = "log-sum-exp", "without a causal mask"
DROPOUT = "dropout inside fused attention"


def rows(shift: float = 0.0, heads: int = H) -> torch.Tensor:
    """A ``(B, heads, S, d)`` tensor."""
    return real(B, heads, S, D) - shift


Q, K, V, GRAD = rows(), rows(0.2), rows(0.4), rows(0.6)
SEED = torch.tensor([1, 2])


def by_rows(
    *tensors: Any, batched: tuple[int, ...], tokens: str, bias: torch.Tensor | None = None
) -> dict[str, Any]:
    """Dimension 0 of the ``batched`` operands must be cut, and nothing else.

    Args:
        tensors: the operands.
        batched: those that have a batch dimension.
        tokens: why dimension 2 is not cut, of any operand but the bias.
        bias: the bias, if there is one.
    """
    present = [t for t in tensors if isinstance(t, torch.Tensor)]
    refused = {
        (i, d): tokens if d == 2 and t is not bias else OTHER
        for i, t in enumerate(present)
        for d in range(t.dim())
        if d > 0 or i not in batched
    }
    return {"refused": refused, "blocks_refused": refused, "exact": False}


def cpu(mask: torch.Tensor | None, causal: bool, aligned: bool) -> list[Sample]:
    """The CPU kernel and its backward."""
    forward = aten._scaled_dot_product_flash_attention_for_cpu.default
    extra = {"attn_mask": mask, "scale": 0.5}
    out, lse = forward(Q, K, V, 0.0, causal, **extra)
    last = (3,) if aligned else ()
    tokens = (FORWARD, BACKWARD) if causal else (NOT_CAUSAL, NOT_CAUSAL)
    grads = aten._scaled_dot_product_flash_attention_for_cpu_backward.default
    return [
        Sample(
            forward,
            (Q, K, V, 0.0, causal),
            extra,
            **by_rows(Q, K, V, mask, batched=(0, 1, 2, *last), bias=mask, tokens=tokens[0]),
        ),
        Sample(
            grads,
            (GRAD, Q, K, V, out, lse, 0.0, causal),
            extra,
            **by_rows(
                *(GRAD, Q, K, V, out, lse, mask),
                batched=(*range(6), *(i + 3 for i in last)),
                bias=mask,
                tokens=tokens[1],
            ),
        ),
    ]


def efficient(bias: torch.Tensor | None) -> list[Sample]:
    """The memory-efficient CUDA kernel: a padded log-sum-exp, a bias of its own."""
    out, lse, *_ = reference.efficient(Q, K, V, bias, True, 0.0, bias is None)
    mask = [True, True, True, bias is not None]
    seeds = (SEED[0], SEED[1])
    tokens = (FORWARD, BACKWARD) if bias is None else (NOT_CAUSAL, NOT_CAUSAL)
    backward_args = (GRAD, Q, K, V, bias, out, lse, *seeds, 0.0, mask, bias is None)
    count = 6 + (bias is not None)
    forward_rows = (0, 1, 2) if bias is None else (0, 1, 2, 3)
    return [
        Sample(
            aten._scaled_dot_product_efficient_attention.default,
            (Q, K, V, bias, True, 0.0, bias is None),
            device="cuda",
            min_rank=3,
            **by_rows(Q, K, V, bias, batched=forward_rows, bias=bias, tokens=tokens[0]),
        ),
        Sample(
            aten._scaled_dot_product_efficient_attention_backward.default,
            backward_args,
            device="cuda",
            min_rank=3,
            **by_rows(*backward_args, batched=tuple(range(count)), bias=bias, tokens=tokens[1]),
        ),
    ]


def flash() -> list[Sample]:
    """The flash CUDA kernel."""
    out, lse, *_ = reference.flash(Q, K, V, 0.0, True)
    args = (GRAD, Q, K, V, out, lse, None, None, S, S, 0.0, True, SEED, SEED[0])
    return [
        Sample(
            aten._scaled_dot_product_flash_attention.default,
            (Q, K, V, 0.0, True),
            device="cuda",
            min_rank=3,
            **by_rows(Q, K, V, batched=(0, 1, 2), tokens=FORWARD),
        ),
        Sample(
            aten._scaled_dot_product_flash_attention_backward.default,
            args,
            device="cuda",
            min_rank=3,
            **by_rows(*args, batched=tuple(range(6)), tokens=BACKWARD),
        ),
    ]


def cudnn(bias: torch.Tensor | None) -> list[Sample]:
    """The cuDNN kernel."""
    out, lse, *_ = reference.cudnn(Q, K, V, bias, True, 0.0, False)
    args = (GRAD, Q, K, V, out, lse, SEED[0], SEED[1], bias, None, None, S, S, 0.0, False)
    last = () if bias is None else (3,)
    return [
        Sample(
            aten._scaled_dot_product_cudnn_attention.default,
            (Q, K, V, bias, True, 0.0, False),
            device="cuda",
            min_rank=3,
            **by_rows(*(Q, K, V, bias), batched=(0, 1, 2, *last), bias=bias, tokens=NOT_CAUSAL),
        ),
        Sample(
            aten._scaled_dot_product_cudnn_attention_backward.default,
            args,
            device="cuda",
            min_rank=3,
            **by_rows(*args, batched=(*range(6), *(8 for _ in last)), bias=bias, tokens=NOT_CAUSAL),
        ),
    ]


def overrideable(bias: torch.Tensor) -> list[Sample]:
    """The kernel of other devices."""
    out, lse, *_ = reference.overrideable(Q, K, V, bias, 0.0, False)
    args = (
        GRAD, Q, K, V, bias, [True] * 4, out, lse, None, None, S, S, 0.0, False, SEED[0], SEED[1],
    )  # fmt: skip
    return [
        Sample(
            aten._scaled_dot_product_fused_attention_overrideable.default,
            (Q, K, V, bias, 0.0, False),
            device="cuda",
            min_rank=3,
            **by_rows(Q, K, V, bias, batched=(0, 1, 2, 3), bias=bias, tokens=UNKNOWN),
        ),
        Sample(
            aten._scaled_dot_product_fused_attention_overrideable_backward.default,
            args,
            device="cuda",
            min_rank=3,
            **by_rows(*args, batched=tuple(range(7)), bias=bias, tokens=UNKNOWN),
        ),
    ]


def with_dropout() -> list[Sample]:
    """Refused along every dimension."""
    refused = {(i, d): DROPOUT for i in range(3) for d in range(4)}
    made = Sample(
        aten._scaled_dot_product_flash_attention.default,
        (Q, K, V, 0.1, False),
        device="cuda",
        min_rank=3,
        refused=refused,
        blocks_refused=refused,
    )
    return [made]


SAMPLES = [
    *cpu(None, True, False),
    *cpu(real(S, S), False, False),
    *cpu(real(B, H, S, S), False, True),
    *cpu(real(B, 1, S, S), False, True),
    *cpu(real(1, H, S, S), False, False),
    *flash(),
    *efficient(None),
    *efficient(real(B, H, S, S)),
    *cudnn(None),
    *cudnn(real(B, 1, S, S)),
    *overrideable(real(B, H, S, S)),
    *with_dropout(),
]
