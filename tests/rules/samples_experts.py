"""Samples of what mixtures of experts and conditionals call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from domino_compile._compat.operators import cond
from tests.rules.harness import MODE, Sample
from tests.rules.samples_pointwise import real

aten = torch.ops.aten

bf16 = torch.bfloat16
ROWS = "rows of all slices are grouped by expert"
FEATURES = "only experts, or an equal number of rows of each, can be cut"
E, M, K, N, T = 4, 3, 8, 16, 6
ENDS = torch.tensor([1, 3, 3, 6], dtype=torch.int32)
EVEN = torch.tensor([2, 2, 4, 8], dtype=torch.int32)


def refused(*pairs: tuple[int, int, str]) -> dict[str, Any]:
    """Cuts of (operand, dimension) that are refused, and why."""
    declared = {(operand, dim): reason for operand, dim, reason in pairs}
    return {"refused": declared, "blocks_refused": declared, "exact": False}


GROUPED = [
    Sample(
        aten._grouped_mm.default,
        (real(E, M, K, dtype=bf16), real(E, K, N, dtype=bf16)),
        **refused((0, 2, FEATURES), (1, 1, FEATURES), (1, 2, FEATURES)),
    ),
    Sample(
        aten._grouped_mm.default,
        (real(T, K, dtype=bf16), real(E, K, N, dtype=bf16), ENDS),
        **refused(
            (0, 0, ROWS), (0, 1, FEATURES), (1, 0, FEATURES), (1, 1, FEATURES), (1, 2, FEATURES),
            (2, 0, FEATURES),
        ),
    ),
    Sample(
        aten._grouped_mm.default,
        (real(K, 8, dtype=bf16), real(8, N, dtype=bf16), EVEN),
        **refused((0, 0, FEATURES), (0, 1, ROWS), (1, 0, ROWS), (1, 1, FEATURES), (2, 0, FEATURES)),
    ),
    Sample(
        aten._grouped_mm.default,
        (real(E, M, K, dtype=bf16), real(K, 8, dtype=bf16), EVEN),
        **refused((0, 0, FEATURES), (0, 2, FEATURES), (1, 0, FEATURES), (1, 1, ROWS),
            (2, 0, FEATURES),
        ),
    ),
]  # fmt: skip


def traced(function: Callable[..., Any], *inputs: torch.Tensor) -> fx.GraphModule:
    """The graph of a branch."""
    with MODE:
        fake = [torch.empty(x.shape, dtype=x.dtype) for x in inputs]
        return make_fx(function)(*fake)


X, W, GRAD = real(4, 3, 2), real(2, 2), real(4, 3, 2) - 0.5


def flat_product(x: Any, w: Any) -> Any:
    """A linear layer, with its views."""
    return [(x.view(12, 2) @ w).view(4, 3, 2)]


def sine(x: Any, w: Any) -> Any:
    """Another branch."""
    return [x.sin() + w[0]]


def centred(x: Any, w: Any) -> Any:
    """A branch that couples the rows."""
    return [x - x.mean(0)]


def flat_product_backward(x: Any, w: Any, grad: Any) -> Any:
    """The gradients of the first."""
    rows = grad.view(12, 2)
    return [(rows @ w.t()).view(4, 3, 2), x.view(12, 2).t() @ rows]


def nothing_backward(x: Any, w: Any, grad: Any) -> Any:
    """The gradients of a branch that returns a constant."""
    return [torch.full((4, 3, 2), 0.0, dtype=grad.dtype), torch.full((2, 2), 0.0, dtype=w.dtype)]


def conditional(yes: Any, no: Any, *inputs: torch.Tensor, cut: tuple[Any, ...]) -> list[Sample]:
    """A conditional for either outcome; ``cut`` are the (operand, dimension) that must be cut."""
    graphs = traced(yes, *inputs), traced(no, *inputs)
    dims = [(i + 1, d) for i, t in enumerate(inputs) for d in range(t.dim())]
    declared = {pair: "" for pair in dims if pair not in cut}
    return [
        Sample(
            cond,
            (torch.tensor(outcome), *graphs, inputs),
            refused=declared,
            blocks_refused=dict.fromkeys(dims, ""),
            exact=False,
        )
        for outcome in (True, False)
    ]


CONDITIONALS = [
    *conditional(flat_product, sine, X, W, cut=((1, 0), (1, 1))),
    *conditional(flat_product_backward, nothing_backward, X, W, GRAD, cut=((3, 0),)),
    Sample(
        cond,
        (torch.tensor(True), traced(centred, X, W), traced(sine, X, W), (X, W)),
        refused={(1, 0): "needs a whole value", (1, 2): "", (2, 0): "", (2, 1): ""},
        blocks_refused={(1, 0): "needs a whole value", (1, 2): "", (2, 0): "", (2, 1): ""},
        exact=False,
    ),
]
SAMPLES = GROUPED + CONDITIONALS
