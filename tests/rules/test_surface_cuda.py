"""Attention layers with the CUDA kernels: analysed as CUDA, run with stand-ins."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from domino_compile.analysis import CutPlan, infer_cut
from domino_compile.graph.collectives import find_sites
from tests.rules.capturing import GROUP, Captured, c10d, fake_group, largest_error

aten = torch.ops.aten
B, S, H, D = 4, 6, 2, 8


def all_reduce(x: torch.Tensor) -> torch.Tensor:
    """Sum over ranks."""
    return c10d.wait_tensor(c10d.all_reduce(x, "sum", GROUP))


def solid(x: torch.Tensor) -> torch.Tensor:
    """A copy without gaps (the kernels' layouts differ from the stand-ins')."""
    return x.clone(memory_format=torch.contiguous_format)


def flash(q: Any, k: Any, v: Any, grad: Any, bias: Any) -> Any:
    del bias
    out, lse, cq, ck, mq, mk, seed, offset, _ = aten._scaled_dot_product_flash_attention(
        q, k, v, 0.0, True
    )
    back = lambda g: aten._scaled_dot_product_flash_attention_backward(  # noqa: E731
        g, q, k, v, out, lse, cq, ck, mq, mk, 0.0, True, seed, offset
    )
    return out, back(grad(out))


def efficient(q: Any, k: Any, v: Any, grad: Any, bias: Any) -> Any:
    out, lse, seed, offset = aten._scaled_dot_product_efficient_attention(q, k, v, bias, True)
    return out, aten._scaled_dot_product_efficient_attention_backward(
        grad(out), q, k, v, bias, out, lse, seed, offset, 0.0, [True] * 3 + [False]
    )


def cudnn(q: Any, k: Any, v: Any, grad: Any, bias: Any) -> Any:
    out, lse, cq, ck, mq, mk, seed, offset, _ = aten._scaled_dot_product_cudnn_attention(
        q, k, v, bias, True
    )
    return out, aten._scaled_dot_product_cudnn_attention_backward(
        grad(out), q, k, v, out, lse, seed, offset, bias, cq, ck, mq, mk, 0.0, False
    )


def with_dropout(q: Any, k: Any, v: Any, grad: Any, bias: Any) -> Any:
    del bias
    out, lse, cq, ck, mq, mk, seed, offset, _ = aten._scaled_dot_product_flash_attention(
        q, k, v, 0.5, True
    )
    return out, aten._scaled_dot_product_flash_attention_backward(
        grad(out), q, k, v, out, lse, cq, ck, mq, mk, 0.5, True, seed, offset
    )


def packed(q: Any, k: Any, v: Any, grad: Any, bias: Any) -> Any:
    del bias
    q, k, v = (solid(x.transpose(1, 2)).view(B * S, H, D).half() for x in (q, k, v))
    ends = torch.arange(0, B * S + 1, S, dtype=torch.int32, device="cuda")
    out, *_ = torch.ops.torch_attn._varlen_attn(q, k, v, ends, ends, S, S, True)
    gradients = grad(out.double().view(B, S, H, D).transpose(1, 2))
    return out, (gradients, gradients, gradients)


def seed_returned(q: Any, k: Any, v: Any, grad: Any, bias: Any) -> Any:
    """The generator's state is a result of the program: the attention must stay whole."""
    out, lse, seed, offset = aten._scaled_dot_product_efficient_attention(q, k, v, bias, True)
    grads = aten._scaled_dot_product_efficient_attention_backward(
        grad(out), q, k, v, bias, out, lse, seed, offset, 0.0, [True] * 3 + [False]
    )
    return out, (*grads[:3], seed)


def layer(attend: Callable[..., Any]) -> Callable[..., Any]:
    """Forward and backward of one attention layer, its gradients written by hand."""

    def step(x: Any, w_in: Any, w_out: Any, given: Any, bias: Any) -> Any:
        q, k, v = (x @ w_in).view(B, S, 3, H, D).permute(2, 0, 3, 1, 4).unbind(0)
        results = []

        def grad(out: torch.Tensor) -> torch.Tensor:
            rows = solid(out.transpose(1, 2)).view(B, S, H * D)
            results.append(all_reduce(rows @ w_out))
            results.append(rows.reshape(-1, H * D).t() @ given.reshape(-1, given.shape[-1]))
            return (given @ w_out.t()).view(B, S, H, D).transpose(1, 2)

        if bias is not None and attend is not cudnn:
            bias = bias.expand(B, H, S, S)
        _, (dq, dk, dv, *rest) = attend(q, k, v, grad, bias)
        d_qkv = solid(torch.stack((dq, dk, dv)).permute(1, 3, 0, 2, 4)).view(B, S, 3 * H * D)
        results.append(all_reduce(d_qkv @ w_in.t()))
        results.append(x.reshape(-1, x.shape[-1]).t() @ d_qkv.reshape(-1, 3 * H * D))
        return [*results, *(t for t in rest if t is not None)]

    return step


def trace(attend: Callable[..., Any], bias: torch.Tensor | None) -> Captured:
    """The layer's graph, on fake CUDA tensors."""
    fake_group()
    generator = torch.Generator().manual_seed(0)
    shapes = [(B, S, 5), (5, 3 * H * D), (H * D, 5), (B, S, 5)]
    real = [torch.rand(s, generator=generator, dtype=torch.float64) for s in shapes]
    inputs = [*real, bias]
    with FakeTensorMode() as mode:
        fake = [
            None if t is None else torch.empty_strided(
                t.shape, t.stride(), dtype=t.dtype, device="cuda"
            )
            for t in inputs
        ]  # fmt: skip
        gm = make_fx(layer(attend))(*fake)
    del mode
    values = [copy.copy(t) for t in inputs]
    return Captured(gm.graph, values, gm)


KERNELS = {
    "flash": (flash, None),
    "efficient": (efficient, None),
    "efficient, padding per row": (efficient, (B, H, S, S)),
    "efficient, one bias for all rows": (efficient, (1, H, S, S)),
    "cudnn": (cudnn, None),
    "cudnn, padding per row": (cudnn, (B, 1, S, S)),
}


def mask(shape: tuple[int, ...] | None) -> torch.Tensor | None:
    """A bias of this shape."""
    if shape is None:
        return None
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("name", KERNELS)
def test_cut_through_and_through(name: str) -> None:
    attend, shape = KERNELS[name]
    captured = trace(attend, mask(shape))
    for slices in (2, 3):
        plan = captured.plan(slices)
        assert isinstance(plan, CutPlan), plan
        assert plan.analysis.batch == B
        assert plan.analysis.inner_joins() == [], plan.analysis.refusals
        sites = [site.launch for site in find_sites(captured.graph)]
        assert plan.analysis.sliced_collectives() == sites
        want, got = captured.run(captured.graph), captured.run(captured.sliced(plan))
        assert largest_error(want, got) < 1e-10


def test_dropout_inside_stays_whole() -> None:
    captured = trace(with_dropout, None)
    x = next(iter(captured.graph.nodes))
    plan = infer_cut(captured.graph, 2, {x: 0})
    assert isinstance(plan, CutPlan), plan
    assert any("dropout inside" in r.reason for r in plan.analysis.refusals.values())
    want, got = captured.run(captured.graph), captured.run(captured.sliced(plan))
    assert largest_error(want, got) < 1e-10


def test_packed_sequences_stay_whole_and_say_what_to_use() -> None:
    importlib.import_module("torch.nn.attention.varlen")  # its operations exist from now on
    plan = trace(packed, None).plan()
    assert isinstance(plan, CutPlan), plan
    (refused,) = plan.analysis.refusals.values()
    assert "packed sequences" in refused.reason and "FlexAttention" in refused.reason


def test_seed_as_a_result_stays_whole() -> None:
    captured = trace(seed_returned, None)
    plan = captured.plan()
    assert isinstance(plan, CutPlan), plan
    assert not any("attention.default" in str(n.target) for n in plan.analysis.cuts)
    want, got = captured.run(captured.graph), captured.run(captured.sliced(plan))
    assert largest_error(want[:-1], got[:-1]) < 1e-10
