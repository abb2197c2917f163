"""Samples of pointwise operations."""

from __future__ import annotations

from typing import Any

import torch

from domino_compile.ops.materialise import materialise
from tests.rules.harness import Sample

aten = torch.ops.aten
prims: Any = torch.ops.prims
f64 = torch.float64


def real(*shape: int, dtype: torch.dtype = f64) -> torch.Tensor:
    """Values between 0 and 1, the same in every run."""
    generator = torch.Generator().manual_seed(sum(shape) + len(shape))
    return torch.rand(shape, generator=generator, dtype=f64).to(dtype)


def complex_(*shape: int) -> torch.Tensor:
    """Complex values."""
    return torch.complex(real(*shape), real(*shape) - 0.5)


def count(*shape: int, below: int = 5) -> torch.Tensor:
    """Integers from 0 to ``below``."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(below, shape, generator=generator)


PAIR = "the pair of real and imaginary part is cut"
SAMPLES = [
    Sample(aten.add.Tensor, (real(4, 6), real(6))),
    Sample(aten.add.Tensor, (real(4, 6), real()), {"alpha": 2}),
    Sample(aten.mul.Tensor, (real(1, 6), real(4, 1))),
    Sample(aten.mul.Tensor, (real(5, 1, 6), real(4, 6))),
    Sample(aten.add.Tensor, (count(4, 6), real())),
    Sample(aten.add.Tensor, (real(4, 6, dtype=torch.bfloat16), real())),
    Sample(aten.where.self, (real(4, 6) > 0.5, real(), real(6))),
    Sample(aten.where.self, (real(4, 1) > 0.5, real(4, 6), real(1, 6))),
    Sample(aten.masked_fill.Scalar, (real(4, 6), real(6) > 0.5, -torch.inf)),
    Sample(aten.masked_fill.Tensor, (real(4, 6), real(4, 1) > 0.5, real())),
    Sample(aten.gelu.default, (real(4, 6),), {"approximate": "tanh"}, exact=False),
    Sample(aten.native_dropout_backward.default, (real(4, 6), real(4, 6) > 0.5, 2.0)),
    Sample(aten.clamp.Tensor, (real(4, 6), real(6), None)),
    Sample(aten.fill.Scalar, (real(4, 6), 3)),
    Sample(aten.fill.Tensor, (real(4, 6), real())),
    Sample(aten.hardsigmoid_backward.default, (real(4, 6), real(4, 6))),
    Sample(aten.hardswish.default, (real(4, 6),), exact=False),
    Sample(aten.hardswish_backward.default, (real(4, 6), real(4, 6)), exact=False),
    Sample(aten.hardtanh_backward.default, (real(4, 6), real(4, 6), 0.2, 0.8)),
    Sample(aten.leaky_relu_backward.default, (real(4, 6), real(4, 6) - 0.5, 0.1, False)),
    Sample(aten.elu_backward.default, (real(4, 6), 1, 1, 1, True, real(4, 6) - 0.5), exact=False),
    Sample(aten.mish_backward.default, (real(4, 6), real(4, 6)), exact=False),
    Sample(aten.softplus_backward.default, (real(4, 6), real(4, 6), 1, 20), exact=False),
    Sample(aten.alias.default, (real(4, 6),)),
    Sample(materialise, (real(4, 6),)),
    Sample(aten.clone.default, (real(4, 6).t(),), {"memory_format": torch.contiguous_format}),
    Sample(aten.complex.default, (real(4, 6), real(6))),
    Sample(aten.conj.default, (complex_(4, 6),)),
    Sample(aten._conj.default, (complex_(4, 6),)),
    Sample(aten._conj_physical.default, (complex_(4, 6),)),
    Sample(aten.conj_physical.default, (complex_(4, 6),)),
    Sample(aten.mul.Tensor, (complex_(4, 6), complex_(6)), exact=False),
    Sample(aten.contiguous.default, (real(4, 6).t(),)),
    Sample(aten.copy.default, (real(4, 6), real(6, dtype=torch.float32))),
    Sample(aten.detach.default, (real(4, 6),)),
    Sample(aten.imag.default, (complex_(4, 6),)),
    Sample(aten.real.default, (complex_(4, 6),)),
    Sample(aten.lift_fresh_copy.default, (real(4, 6),)),
    Sample(aten.polar.default, (real(4, 6), real(4, 1)), exact=False),
    Sample(aten.resolve_conj.default, (complex_(4, 6),)),
    Sample(aten.to.device, (real(4, 6), "cpu", torch.float32)),
    Sample(aten.to.dtype, (real(4, 6), torch.float32)),
    Sample(aten.to.dtype_layout, (real(4, 6),), {"dtype": torch.int64}),
    Sample(aten._to_copy.default, (real(4, 6),), {"dtype": torch.bfloat16}),
    Sample(
        aten._to_copy.default,
        (real(2, 4, 6, 2),),
        {"dtype": torch.float32, "memory_format": torch.channels_last},
    ),
    Sample(aten.empty_like.default, (real(4, 6),), {"dtype": torch.int32}, values=False),
    Sample(
        aten.full_like.default,
        (real(4, 6), 3),
        {"dtype": torch.int64, "memory_format": torch.preserve_format},
    ),
    Sample(aten.ones_like.default, (real(4, 6),), {"dtype": torch.bool}),
    Sample(aten.zeros_like.default, (real(4, 6).t(),), {"pin_memory": False}),
    Sample(prims.convert_element_type.default, (real(4, 6), torch.float16)),
    Sample(
        aten.view_as_real.default,
        (complex_(4, 6),),
        pull_refused={2: PAIR},
    ),
    Sample(aten.view_as_complex.default, (real(4, 6, 2),), refused={(0, 2): PAIR}),
]
