"""Samples of contractions, reductions and normalisations."""

from __future__ import annotations

from typing import Any

import torch

from tests.rules.harness import Sample
from tests.rules.samples_pointwise import complex_, count, real

aten = torch.ops.aten
prims: Any = torch.ops.prims
bf16 = torch.bfloat16

SUM = "adds a value to a partial sum"
SQUARE = real(4, 4)
ONLY = "only the added value"
CONTRACTIONS = [
    Sample(aten.mm.default, (real(4, 6), real(6, 3)), exact=False, pull_refused={1: "columns"}),
    Sample(aten.mm.default, (complex_(4, 6), complex_(6, 3)), exact=False, pull_refused={1: "col"}),
    Sample(aten.mm.default, (SQUARE, SQUARE), exact=False, pull_refused={1: "columns"}),
    Sample(
        aten.bmm.default, (real(4, 6, 3), real(4, 3, 2)), exact=False, pull_refused={2: "columns"}
    ),
    Sample(
        aten.addmm.default,
        (real(3), real(4, 6), real(6, 3)),
        {"beta": 2.0, "alpha": 3.0},
        exact=False,
        refused={(0, 0): ONLY, (1, 1): SUM, (2, 0): SUM},
        blocks_refused={(1, 1): SUM, (2, 0): SUM},
    ),
    Sample(
        aten.addmm.default,
        (real(4, 1), real(4, 6), real(6, 3)),
        exact=False,
        refused={(0, 0): ONLY, (1, 1): SUM, (2, 0): SUM},
        blocks_refused={(0, 0): ONLY, (1, 1): SUM, (2, 0): SUM},
    ),
    Sample(
        aten.baddbmm.default,
        (real(4, 5, 3), real(4, 5, 6), real(4, 6, 3)),
        exact=False,
        refused={(0, 0): ONLY, (0, 1): ONLY, (0, 2): ONLY, (1, 2): SUM, (2, 1): SUM},
        blocks_refused={(0, 0): ONLY, (1, 2): SUM, (2, 1): SUM},
    ),
    Sample(aten.mv.default, (real(4, 6), real(6)), exact=False),
    Sample(aten.dot.default, (real(6), real(6)), exact=False),
    Sample(aten.vdot.default, (complex_(6), complex_(6)), exact=False),
]

OVER = "reduces over the cut dimension"


def over(*dims: int) -> dict[str, Any]:
    """Operand 0 must not be cut along these."""
    return {"refused": {(0, d): OVER for d in dims}, "blocks_refused": {(0, d): OVER for d in dims}}


REDUCTIONS = [
    Sample(aten.sum.default, (real(4, 6),), exact=False),
    Sample(aten.sum.default, (real(4, 6) > 0.5,)),
    Sample(aten.sum.default, (count(4, 6),), {"dtype": torch.float64}),
    Sample(aten.sum.default, (count(4, 6).to(torch.int8),)),
    Sample(aten.sum.dim_IntList, (real(4, 6, 2), [1]), exact=False),
    Sample(aten.sum.dim_IntList, (real(4, 6, 2), [-1, 0], True), exact=False),
    Sample(aten.sum.dim_IntList, (real(4, 6), []), exact=False),
    Sample(aten.sum.dim_IntList, (real(4, 6), None), exact=False),
    Sample(aten.sum.dim_IntList, (real(4, 6, dtype=bf16), [0]), exact=False),
    Sample(aten.sum.dim_IntList, (real(4, 6), [0]), {"dtype": bf16}, exact=False),
    Sample(
        aten.sum.dim_IntList, (real(4, 6, dtype=bf16), [0]), {"dtype": torch.float32}, exact=False
    ),
    Sample(aten.sum.default, (real(4, 6, dtype=torch.float16),), exact=False),
    Sample(aten.sum.default, (complex_(4, 6),), exact=False),
    Sample(aten.mean.default, (real(4, 6),), exact=False),
    Sample(aten.mean.default, (count(4, 6),), {"dtype": torch.float64}, exact=False),
    Sample(aten.mean.default, (real(4, 6, dtype=bf16),), exact=False),
    Sample(aten.mean.dim, (real(4, 6, 2), [1], True), exact=False),
    Sample(aten.mean.dim, (real(4, 6, 2), [0, -1]), exact=False),
    Sample(aten.mean.dim, (real(4, 6), []), exact=False),
    Sample(aten.mean.dim, (complex_(4, 6), [0]), exact=False),
    Sample(aten.mean.dim, (real(4, 6), [0]), {"dtype": bf16}, exact=False),
    Sample(prims.sum.default, (real(4, 6, 2), [1]), exact=False),
    Sample(prims.sum.default, (real(4, 6, 2), [0, 2]), exact=False),
    Sample(aten.all.dim, (real(4, 6) > 0.2, 1), **over(1)),
    Sample(aten.all.dims, (real(4, 6, 2) > 0.2, [0, -1], True), **over(0, 2)),
    Sample(aten.all.default, (real(4, 6) > 0.2,), **over(0, 1)),
    Sample(aten.any.dim, (real(4, 6) > 0.8, -1, True)),
    Sample(aten.any.dim, ((real(4, 6) > 0.8).to(torch.uint8), -1, True), **over(1)),
    Sample(aten.any.default, (real(4, 6) > 2,)),
    Sample(aten.any.dims, (real(4, 6) > 0.8, None)),
    Sample(aten.any.dims, (real(4, 6) > 0.8, [])),
    Sample(aten.all.dims, (real(4, 6) > 0.2, [])),
    Sample(aten.any.default, (real(4, 6) > 0.8,)),
    Sample(aten.amax.default, (real(4, 6, 2), [-1], True)),
    Sample(aten.amax.default, (real(4, 6),)),
    Sample(aten.amax.default, (real(4, 6), [0], True)),
    Sample(aten.amin.default, (real(4, 6, 2), [0, 1])),
    Sample(aten.argmax.default, (real(4, 6),), **over(0, 1)),
    Sample(aten.argmax.default, (real(4, 6), 1), **over(1)),
    Sample(aten.argmin.default, (real(4, 6), 0, True), **over(0)),
    Sample(aten.logsumexp.default, (real(4, 6), [1]), exact=False, **over(1)),
    Sample(aten.logsumexp.default, (real(4, 6), [1], True), exact=False, **over(1)),
    Sample(aten.max.default, (real(4, 6),)),
    Sample(aten.max.dim, (real(4, 6), -1), **over(1)),
    Sample(aten.min.default, (real(4, 6),)),
    Sample(aten.min.dim, (real(4, 6), 0, True), **over(0)),
    Sample(aten.prod.default, (real(4, 6),), exact=False, **over(0, 1)),
    Sample(aten.prod.dim_int, (real(4, 6), 1), exact=False, **over(1)),
    Sample(aten.std.correction, (real(4, 6), [1]), {"correction": 0}, exact=False, **over(1)),
    Sample(aten.var.correction, (real(4, 6),), exact=False, **over(0, 1)),
    Sample(aten.var.correction, (real(4, 6), [0]), {"keepdim": True}, exact=False, **over(0)),
    Sample(
        aten.var_mean.correction, (real(4, 6, 2), [2]), {"keepdim": True}, exact=False, **over(2)
    ),
    Sample(aten.var_mean.correction, (real(4, 6, 2), [0]), exact=False, **over(0)),
    Sample(aten.linalg_vector_norm.default, (real(4, 6), 2, [-1]), exact=False, **over(1)),
    Sample(aten.linalg_vector_norm.default, (real(4, 6),), exact=False, **over(0, 1)),
]

ALONG = "along the cut dimension"


def along(*operands_dims: tuple[int, int]) -> dict[str, Any]:
    """These must not be cut."""
    refused = dict.fromkeys(operands_dims, ALONG)
    return {"refused": refused, "blocks_refused": refused}


NORM = "normalises the cut"
f64 = torch.float64
NORMALISATIONS = [
    Sample(aten._log_softmax.default, (real(4, 6), -1, False), exact=False, **along((0, 1))),
    Sample(
        aten._log_softmax_backward_data.default,
        (real(4, 6), real(4, 6), 1, f64),
        exact=False,
        **along((0, 1), (1, 1)),
    ),
    Sample(aten._softmax.default, (real(4, 6, 2), 1, False), exact=False, **along((0, 1))),
    Sample(
        aten._softmax_backward_data.default,
        (real(4, 6), real(4, 6), -2, f64),
        exact=False,
        **along((0, 0), (1, 0)),
    ),
    Sample(aten.cumprod.default, (real(4, 6), 1), exact=False, **along((0, 1))),
    Sample(aten.cumsum.default, (real(4, 6), -1), {"dtype": f64}, exact=False, **along((0, 1))),
    Sample(aten.cumsum.default, (real(4, 6), 0), exact=False, **along((0, 0))),
    Sample(aten.logcumsumexp.default, (real(4, 6), 1), exact=False, **along((0, 1))),
    Sample(aten.glu.default, (real(4, 6),), exact=False, **along((0, 1))),
    Sample(
        aten.glu_backward.default,
        (real(4, 3), real(4, 6), -1),
        exact=False,
        **along((0, 1), (1, 1)),
    ),
    Sample(aten.sort.default, (real(4, 6),), **along((0, 1))),
    Sample(aten.sort.stable, (real(4, 6),), {"stable": True, "dim": 0}, **along((0, 0))),
    Sample(aten.topk.default, (real(4, 6), 2), **along((0, 1))),
    Sample(aten.topk.default, (real(4, 6), 2, 0, False, True), **along((0, 0))),
    Sample(
        aten.native_layer_norm.default,
        (real(4, 5, 6), [6], real(6), real(6), 1e-5),
        exact=False,
        refused={(0, 2): NORM, (1, 0): NORM, (2, 0): NORM},
        blocks_refused={(0, 2): NORM, (1, 0): NORM, (2, 0): NORM},
    ),
    Sample(
        aten.native_layer_norm.default,
        (real(4, 5, 6), [5, 6], None, None, 1e-5),
        exact=False,
        refused={(0, 1): NORM, (0, 2): NORM},
        blocks_refused={(0, 2): NORM},
    ),
]
SAMPLES = CONTRACTIONS + REDUCTIONS + NORMALISATIONS
