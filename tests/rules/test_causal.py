"""Causal attention cut along its tokens, forward and backward, every kernel that is emitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from domino_compile.analysis import CutPlan, propagate
from domino_compile.analysis.infer import extended
from domino_compile.axes import Chunks, Sliced
from tests.rules.capturing import (
    Captured,
    fake_group,
    largest_error,
)

aten = torch.ops.aten
B, S, H, D = 2, 12, 2, 8
CHUNKS = ((6, 6), (7, 5), (1, 11), (11, 1), (4, 4, 4), (5, 4, 1, 2))


def flash(q: Any, k: Any, v: Any, grad: Any, causal: bool) -> Any:
    out, lse, cq, ck, mq, mk, seed, offset, _ = aten._scaled_dot_product_flash_attention(
        q, k, v, 0.0, causal
    )
    return out, aten._scaled_dot_product_flash_attention_backward(
        grad(out), q, k, v, out, lse, cq, ck, mq, mk, 0.0, causal, seed, offset
    )


def efficient(q: Any, k: Any, v: Any, grad: Any, causal: bool) -> Any:
    out, lse, seed, offset = aten._scaled_dot_product_efficient_attention(
        q, k, v, None, True, 0.0, causal
    )
    return out, aten._scaled_dot_product_efficient_attention_backward(
        grad(out), q, k, v, None, out, lse, seed, offset, 0.0, [True] * 3 + [False], causal
    )[:3]


def cudnn(q: Any, k: Any, v: Any, grad: Any, causal: bool) -> Any:
    out, lse, cq, ck, mq, mk, seed, offset, _ = aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, True, 0.0, causal
    )
    return out, aten._scaled_dot_product_cudnn_attention_backward(
        grad(out), q, k, v, out, lse, seed, offset, None, cq, ck, mq, mk, 0.0, causal
    )


def cpu(q: Any, k: Any, v: Any, grad: Any, causal: bool) -> Any:
    out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal)
    return out, aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad(out), q, k, v, out, lse, 0.0, causal
    )


def overrideable(q: Any, k: Any, v: Any, grad: Any, causal: bool) -> Any:
    made = aten._scaled_dot_product_fused_attention_overrideable(q, k, v, None, 0.0, causal)
    out, lse, cq, ck, mq, mk, seed, offset, _ = made
    return out, aten._scaled_dot_product_fused_attention_overrideable_backward(
        grad(out), q, k, v, None, [True] * 3 + [False], out, lse, cq, ck, mq, mk, 0.0, causal,
        seed, offset,
    )[:3]  # fmt: skip


def trace(
    attend: Callable[..., Any],
    causal: bool = True,
    device: str = "cuda",
    tokens: int = S,
    width: int = D,
    dtype: torch.dtype = torch.float64,
) -> Captured:
    """One attention and its gradients; the inputs are queries, keys, values, their gradient."""

    def step(q: Any, k: Any, v: Any, given: Any) -> Any:
        q, k, v = q * 1.0, k * 1.0, v * 1.0
        out, grads = attend(q, k, v, lambda out: given + 0.1 * out, causal)
        return [out * 1.0, *(g * 1.0 for g in grads)]

    fake_group()
    generator = torch.Generator().manual_seed(0)
    shape = (B, H, tokens, width)
    real = [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(4)]
    with FakeTensorMode():
        gm = make_fx(step)(*(torch.empty(x.shape, dtype=x.dtype, device=device) for x in real))
    return Captured(gm.graph, real, gm)


def plan_of(captured: Captured, sizes: tuple[int, ...], seeds: int = 4) -> CutPlan:
    """The first inputs cut along the tokens."""
    inputs = [n for n in captured.graph.nodes if n.op == "placeholder"][:seeds]
    analysis = propagate(captured.graph, sum(sizes), dict.fromkeys(inputs, Sliced(2)))
    return CutPlan(Chunks(sum(sizes), sizes), extended(captured.graph, analysis))


KERNELS = {"flash": flash, "efficient": efficient, "cudnn": cudnn, "cpu": cpu}


@pytest.mark.parametrize("sizes", CHUNKS, ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_slices_compute_what_the_whole_does(name: str, sizes: tuple[int, ...]) -> None:
    captured = trace(KERNELS[name], device="cpu" if name == "cpu" else "cuda")
    plan = plan_of(captured, sizes)
    assert plan.analysis.inner_joins() == [], plan.analysis.refusals
    want, got = captured.run(captured.graph), captured.run(captured.sliced(plan))
    assert largest_error(want, got) < 1e-12


def test_queries_alone_are_enough_to_begin_with() -> None:
    captured = trace(cudnn)
    plan = plan_of(captured, (6, 6), seeds=1)
    want, got = captured.run(captured.graph), captured.run(captured.sliced(plan))
    assert largest_error(want, got) < 1e-12
    assert plan.analysis.looks_back


@pytest.mark.parametrize(
    ("attend", "causal", "why"),
    [
        (flash, False, "without a causal mask"),
        pytest.param(
            *(overrideable, True, "log-sum-exp"),
            marks=pytest.mark.skipif(
                torch.__version__ < "2.12", reason="this torch does not know the gradient's shapes"
            ),
        ),
    ],
)
def test_refused(attend: Any, causal: bool, why: str) -> None:
    captured = trace(attend, causal)
    plan = plan_of(captured, (6, 6))
    assert any(why in r.reason for r in plan.analysis.refusals.values()), plan.analysis.refusals
    want, got = captured.run(captured.graph), captured.run(captured.sliced(plan))
    assert largest_error(want, got) < 1e-12
