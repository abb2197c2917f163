"""Operations that split tensors or put them together: slices, splits, concatenations."""

from __future__ import annotations

from typing import Any

import torch

from domino_compile.axes import Size, Sliced, quotient
from domino_compile.rules.call import Call, Cut, Outcome, Refusal, Scaled
from domino_compile.rules.rule import Trait, family
from domino_compile.rules.shape import normal

aten = torch.ops.aten
prims = torch.ops.prims


def bound(value: int | None, default: int, extent: int) -> int:
    """Return a slice's bound as torch reads it: from the end if negative, then clamped."""
    if value is None:
        return default
    return min(max(value + extent if value < 0 else value, 0), extent)


def slice_(call: Call) -> Outcome:
    """Cut ``x[start:end:step]``: any slice of other dimensions, whole blocks of the cut one."""
    (x,) = call.operands
    assert x.sliced is not None
    dim = normal(call.arg(1, "dim", 0), x.rank)
    if dim != x.sliced.dim or call.out_shape == x.shape:
        return Cut((x.sliced,), x.sliced)
    extent = x.shape[dim]
    start, end, step = call.arg(2, "start"), call.arg(3, "end"), call.arg(4, "step", 1)
    known = all(isinstance(n, int | None) for n in (start, end))
    if not (known and isinstance(extent, int) and isinstance(x.sliced.outer, int) and step == 1):
        return Refusal("a slice of the cut dimension itself")
    first, last = bound(start, 0, extent), bound(end, extent, extent)
    block = extent // x.sliced.outer
    if first % block or last % block or last <= first:
        return Refusal("a slice of the cut dimension that splits the cut axis")
    scaled = (Scaled("start", None, first), Scaled("end", None, last))

    def build(
        args: tuple[Any, ...], kwargs: dict[str, Any], chunks: Any, index: int
    ) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        low, high = (chunks.part_of(s.extent, index) for s in scaled)
        return aten.slice.Tensor, (args[0], dim, low, high), {}

    return Cut((x.sliced,), Sliced(dim, (last - first) // block), build=build)


def pull_slice(call: Call, want: Sliced) -> Outcome:
    """Pull a slice of a dimension other than the wanted one, or of all of the wanted one."""
    (x,) = call.operands
    if normal(call.arg(1, "dim", 0), x.rank) == want.dim and call.out_shape != x.shape:
        return Refusal("a slice of the wanted dimension itself")
    return Cut((want,), want)


def select(call: Call) -> Outcome:
    """Cut ``x[..., i, ...]`` if the indexed dimension is not cut."""
    (x,) = call.operands
    assert x.sliced is not None
    gone = normal(call.arg(1, "dim"), x.rank)
    if gone == x.sliced.dim:
        return Refusal("selects one row of the cut dimension")
    return Cut((x.sliced,), Sliced(x.sliced.dim - (gone < x.sliced.dim), x.sliced.outer))


def pull_select(call: Call, want: Sliced) -> Outcome:
    """Pull ``select``: the inverse of its rule."""
    (x,) = call.operands
    gone = normal(call.arg(1, "dim"), x.rank)
    state = Sliced(want.dim + (want.dim >= gone), want.outer)
    return Cut((state,), want)


def unbind(call: Call) -> Outcome:
    """Cut ``unbind`` of a dimension that is not cut."""
    (x,) = call.operands
    assert x.sliced is not None
    gone = normal(call.arg(1, "dim", 0), x.rank)
    if gone == x.sliced.dim:
        return Refusal("unbinds the cut dimension")
    state = Sliced(x.sliced.dim - (gone < x.sliced.dim), x.sliced.outer)
    return Cut((x.sliced,), tuple(state for _ in call.out))


def split(call: Call) -> Outcome:
    """Cut ``split`` or ``split_with_sizes``: whole blocks only on the cut dimension."""
    (x,) = call.operands
    assert x.sliced is not None
    dim = normal(call.arg(2, "dim", 0), x.rank)
    if dim != x.sliced.dim:
        return Cut((x.sliced,), tuple(x.sliced for _ in call.out))
    block = quotient(x.shape[dim], x.sliced.outer)
    pieces: list[Sliced] = []
    for shape in call.out:
        count = quotient(shape[dim], block) if block is not None else None
        if count is None or count == 0:
            return Refusal("splits the cut axis itself")
        pieces.append(Sliced(dim, count))
    lengths = call.args[1]
    if isinstance(lengths, (tuple, list)):
        scaled = tuple(Scaled(1, i, shape[dim]) for i, shape in enumerate(call.out))
    else:
        scaled = (Scaled(1, None, call.out[0][dim]),)
    return Cut((x.sliced,), tuple(pieces), scaled)


def cat(call: Call) -> Outcome:
    """Cut a concatenation beside the cut dimension, or of equal blocks along it (rank-major)."""
    lead = next(call.cut_operands())
    assert lead.sliced is not None
    state = lead.sliced
    parts = [x for x in call.operands if not (x.rank == 1 and x.shape[0] == 0)]
    if len(parts) != len(call.operands):
        return Refusal("concatenates an empty tensor")
    dim = normal(call.arg(1, "dim", 0), lead.rank)
    if dim != state.dim:
        return Cut(tuple(state for _ in parts), state)
    block = quotient(lead.shape[dim], state.outer)
    outers: list[Size] = []
    for part in parts:
        count = quotient(part.shape[dim], block) if block is not None else None
        if part.sliced is None or count is None or part.sliced != Sliced(dim, count):
            return Refusal("concatenates along the cut dimension")
        outers.append(count)
    total = sum(outers[1:], start=outers[0])
    return Cut(tuple(x.state for x in parts), Sliced(dim, total))


def pull_cat(call: Call, want: Sliced) -> Outcome:
    """Pull a concatenation along a dimension other than the wanted one."""
    parts = call.operands
    if any(len(x.shape) != len(call.out_shape) for x in parts):
        return Refusal("concatenates an empty tensor")
    if normal(call.arg(1, "dim", 0), len(call.out_shape)) == want.dim:
        return Refusal("concatenates along the wanted dimension")
    return Cut(tuple(want for _ in parts), want)


def stack(call: Call) -> Outcome:
    """Cut ``stack``, which adds a new dimension."""
    lead = next(call.cut_operands())
    assert lead.sliced is not None
    new = normal(call.arg(1, "dim", 0), len(call.out_shape))
    out = Sliced(lead.sliced.dim + (lead.sliced.dim >= new), lead.sliced.outer)
    return Cut(tuple(lead.sliced for _ in call.operands), out)


def beside_dims(call: Call) -> Outcome:
    """Cut an operation on given dimensions (``flip``, ``roll``) that exclude the cut one."""
    (x,) = call.operands
    assert x.sliced is not None
    dims = call.arg(2, "dims") if call.op is aten.roll.default else call.arg(1, "dims")
    if not dims or x.sliced.dim in [normal(d, x.rank) for d in dims]:
        return Refusal("acts along the cut dimension")
    return Cut((x.sliced,), x.sliced)


def pad(call: Call) -> Outcome:
    """Cut constant padding of dimensions that are not cut."""
    (x,) = call.operands
    assert x.sliced is not None
    amounts = call.arg(1, "pad")
    at = 2 * (x.rank - 1 - x.sliced.dim)
    if any(amount != 0 for amount in amounts[at : at + 2]):
        return Refusal("pads the cut dimension")
    return Cut((x.sliced,), x.sliced)


def slice_scatter(call: Call) -> Outcome:
    """Cut ``slice_scatter`` (the backward of ``slice``) on a dimension that is not cut."""
    lead = next(call.cut_operands())
    assert lead.sliced is not None
    if normal(call.arg(2, "dim", 0), lead.rank) == lead.sliced.dim:
        return Refusal("writes a slice of the cut dimension")
    return Cut((lead.sliced, lead.sliced), lead.sliced)


def select_scatter(call: Call) -> Outcome:
    """Cut ``select_scatter`` (the backward of ``select``) on a dimension that is not cut."""
    whole, part = call.operands
    at = normal(call.arg(2, "dim"), whole.rank)
    if whole.sliced is not None:
        state = whole.sliced
    else:
        assert part.sliced is not None
        state = Sliced(part.sliced.dim + (part.sliced.dim >= at), part.sliced.outer)
    if at == state.dim:
        return Refusal("writes one row of the cut dimension")
    return Cut((state, Sliced(state.dim - (at < state.dim), state.outer)), state)


RULES = {
    **family("slice", slice_, (aten.slice.Tensor,), pull_slice),
    **family("select", select, (aten.select.int,), pull_select),
    **family("unbind", unbind, (aten.unbind.int,)),
    **family("split", split, (aten.split.Tensor, aten.split_with_sizes.default)),
    **family("cat", cat, (aten.cat.default,), pull_cat, traits=Trait.PUTS_TOGETHER),
    **family("stack", stack, (aten.stack.default,)),
    **family("beside dims", beside_dims, (aten.flip.default, aten.roll.default, prims.rev.default)),
    **family("pad", pad, (aten.constant_pad_nd.default,), traits=Trait.PUTS_TOGETHER),
    **family(
        "slice_scatter", slice_scatter, (aten.slice_scatter.default,), traits=Trait.PUTS_TOGETHER
    ),
    **family(
        "select_scatter", select_scatter, (aten.select_scatter.default,), traits=Trait.PUTS_TOGETHER
    ),
}
