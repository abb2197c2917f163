"""A cut program rounds the residual stream no more often than the uncut program."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import rms_norm

from domino_compile.backend import domino
from domino_compile.passes.cut_inputs import separate_uses
from domino_compile.tools.bench.gradients import MOST_RATIO
from tests.passes.graphs import Builder, aten

c10d: Any = torch.ops._c10d_functional
WIDTH = 128


def summed(x: torch.Tensor) -> torch.Tensor:
    group = dist.group.WORLD
    assert group is not None
    return c10d.wait_tensor(c10d.all_reduce(x, "sum", group.group_name))


def block(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    h = x + summed(rms_norm(x, (WIDTH,)) @ first)
    return h + summed(rms_norm(h, (WIDTH,)) @ second)


def values(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((8, 32, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH))
    drawn = (torch.randn(*shape, generator=generator) for shape in shapes)
    x, *weights = (value.bfloat16().to(dtype) for value in drawn)
    return [x.requires_grad_(), *((weight / 8).requires_grad_() for weight in weights)]


def error(compile_: Callable[[Any], Any]) -> float:
    torch._dynamo.reset()
    exact = block(*values(torch.float64))
    found = compile_(block)(*values(torch.bfloat16))
    return float((found.detach().double() - exact.detach()).norm() / exact.detach().norm())


@pytest.mark.usefixtures("lone_rank")
def test_the_residual_stream_is_as_exact_as_without_a_cut() -> None:
    options = {"slices": 2, "check_ranks": False}
    alone = error(partial(torch.compile, backend="inductor"))
    ours = error(partial(torch.compile, backend=domino, options=options))
    assert 1e-4 < alone < 1e-2
    assert ours <= MOST_RATIO * alone


def forward_and_backward(dtype: torch.dtype) -> tuple[Builder, Any]:
    b = Builder()
    x, grad = b.input("primals_1", 4, 8, dtype=dtype), b.input("tangents_1", 2, 8, dtype=dtype)
    piece = b.call(aten.slice.Tensor, x, 0, 0, 2)
    uses = [b.call(function, piece) for function in (aten.relu.default, aten.sin.default)]
    total = b.call(aten.add.Tensor, *uses)
    both = b.call(aten.mul.Tensor, total, piece)
    b.output(both, b.call(aten.mul.Tensor, grad, piece))
    return b, piece


def test_each_use_in_forward_has_a_view_of_its_own() -> None:
    b, piece = forward_and_backward(torch.bfloat16)
    assert separate_uses(b.graph, [piece]) == 2
    b.graph.lint()
    views = [n for n in b.graph.nodes if n.target is aten.alias.default]
    real = [n for value in (piece, *views) for n in value.users if n not in views]
    assert len(real) == len(set(real)) == 4  # three in forward and one in backward
    assert len({v.args[0] for v in views}) == len(views)  # no two that could be merged


def test_wide_types_stay_as_they_are() -> None:
    b, piece = forward_and_backward(torch.float32)
    assert separate_uses(b.graph, [piece]) == 0
    assert not b.graph.find_nodes(op="call_function", target=aten.alias.default)
