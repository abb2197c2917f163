"""The operation ``domino_compile::random_slice``: one slice of ``inductor_random``."""

from __future__ import annotations

from typing import Any

import torch

from domino_compile.ops.library import library

library.define(
    "random_slice(SymInt[] size, Tensor seed, str mode, int dim, SymInt start, SymInt length)"
    " -> Tensor"
)


def _random_slice(
    size: list[int], seed: torch.Tensor, mode: str, dim: int, start: int, length: int
) -> torch.Tensor:
    """Draw all numbers and return a slice; outside Inductor a draw does not depend on the index.

    The generator is seeded with the value of ``seed``, so that all slices of one draw agree.
    """
    generator = torch.Generator(device=seed.device)
    generator.manual_seed(int(seed.item()))
    whole = getattr(torch, mode)(size, device=seed.device, generator=generator)
    part: torch.Tensor = whole.narrow(dim, start, length).contiguous()
    return part


def _random_slice_meta(
    size: list[int], seed: torch.Tensor, mode: str, dim: int, start: int, length: int
) -> torch.Tensor:
    shape = list(size)
    shape[dim] = length
    return torch.empty(shape, device=seed.device, dtype=torch.float32)


library.impl("random_slice", _random_slice, "CompositeExplicitAutograd")
torch.library.register_fake("domino_compile::random_slice", _random_slice_meta, lib=library)

random_slice: Any = torch.ops.domino_compile.random_slice.default
