"""Values made without tensor inputs: if slices are needed, they are made in slices."""

from __future__ import annotations

from typing import Any

import torch

from domino_compile.axes import WHOLE, Sliced
from domino_compile.rules.call import Call, Cut, Outcome, Refusal, Scaled
from domino_compile.rules.rule import Trait, family

aten = torch.ops.aten
prims = torch.ops.prims


def never_cut(call: Call) -> Outcome:
    """Keep the result whole: no operand carries the axis (``new_*`` uses its type and device)."""
    return Cut(tuple(WHOLE for _ in call.operands), WHOLE)


def pull_sized(position: int) -> Any:
    """Return the pull of a constant whose shape is argument ``position``."""

    def pull(call: Call, want: Sliced) -> Outcome:
        scaled = Scaled(position, want.dim, call.out_shape[want.dim])
        return Cut(tuple(WHOLE for _ in call.operands), want, (scaled,))

    return pull


def pull_iota(call: Call, want: Sliced) -> Outcome:
    """Make ``prims.iota(length, start=, step=)`` in slices: each continues the previous count."""
    if want.outer != 1 or not isinstance(call.kwargs.get("start"), int):
        return Refusal("a count whose blocks are interleaved")
    extent = call.out_shape[0]

    def build(args: tuple[Any, ...], kwargs: dict[str, Any], chunks: Any, index: int) -> Any:
        start = kwargs["start"] + kwargs["step"] * chunks.start_in(extent, index)
        return call.op, (chunks.part_of(extent, index),), {**kwargs, "start": start}

    return Cut((), want, build=build)


RULES = {
    **family(
        "constant",
        never_cut,
        (
            aten.full.default,
            aten.zeros.default,
            aten.ones.default,
            aten.empty.memory_format,
        ),
        pull_sized(0),
        traits=Trait.CREATES,
    ),
    **family(
        "constant",
        never_cut,
        (
            aten.new_empty.default,
            aten.new_full.default,
            aten.new_ones.default,
            aten.new_zeros.default,
        ),
        pull_sized(1),
        traits=Trait.CREATES,
    ),
    **family("iota", never_cut, (prims.iota.default,), pull_iota, traits=Trait.CREATES),
}
