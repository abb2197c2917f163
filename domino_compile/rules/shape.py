"""Operations that only move elements: views, permutations, splits, concatenations."""

from __future__ import annotations

from typing import Any

import torch

from domino_compile.axes import WHOLE, Shape, Size, Sliced, States, quotient
from domino_compile.axes.sizes import product
from domino_compile.rules.call import Call, Cut, Outcome, Refusal, Scaled
from domino_compile.rules.registry import family

aten = torch.ops.aten


def normal(dim: Any, rank: int) -> int:
    """A dimension counted from the front."""
    return int(dim) % max(rank, 1)


def follow_view(before: Shape, after: Shape, state: Sliced, batch: Size) -> Sliced | None:
    """Where the cut axis goes when a tensor is viewed in another shape.

    The position of the batch among the factors of the flattened tensor stays: ``outer``
    elements before it, counted over all leading dimensions.
    """
    outer = product((*before[: state.dim], state.outer))
    for dim, extent in enumerate(after):
        block = product((outer, batch))
        if quotient(extent, block) is not None:
            return Sliced(dim, outer)
        rest = quotient(outer, extent)
        if rest is None:
            return None
        outer = rest
    return None


def view(call: Call) -> Outcome:
    """Reshape: sizes of the result are rewritten for each slice."""
    (x,) = call.operands
    assert x.sliced is not None
    state = follow_view(x.shape, call.out_shape, x.sliced, call.batch)
    if state is None:
        return Refusal(f"the view {x.shape} -> {call.out_shape} mixes the cut axis with others")
    return Cut((x.sliced,), state, (Scaled(1, state.dim, call.out_shape[state.dim]),))


def pull_view(call: Call, want: Sliced) -> Outcome:
    """The inverse view."""
    (x,) = call.operands
    state = follow_view(call.out_shape, x.shape, want, call.batch)
    if state is None:
        return Refusal(f"the view {x.shape} -> {call.out_shape} mixes the cut axis with others")
    return Cut((state,), want, (Scaled(1, want.dim, call.out_shape[want.dim]),))


def permutation_of(call: Call) -> list[int]:
    """``order[j]`` = the input dimension that becomes dimension ``j`` of the result."""
    rank = len(call.out_shape)
    if call.op is aten.permute.default:
        return [normal(d, rank) for d in call.arg(1, "dims")]
    order = list(range(rank))
    if call.op is aten.t.default:
        return order[::-1]
    a, b = normal(call.arg(1, "dim0"), rank), normal(call.arg(2, "dim1"), rank)
    order[a], order[b] = order[b], order[a]
    return order


def permute(call: Call) -> Outcome:
    """The cut dimension moves."""
    (x,) = call.operands
    assert x.sliced is not None
    return Cut((x.sliced,), Sliced(permutation_of(call).index(x.sliced.dim), x.sliced.outer))


def pull_permute(call: Call, want: Sliced) -> Outcome:
    """The inverse permutation."""
    return Cut((Sliced(permutation_of(call)[want.dim], want.outer),), want)


def unsqueeze(call: Call) -> Outcome:
    """A new dimension of extent 1."""
    (x,) = call.operands
    assert x.sliced is not None
    new = normal(call.arg(1, "dim"), len(call.out_shape))
    dim = x.sliced.dim + (x.sliced.dim >= new)
    return Cut((x.sliced,), Sliced(dim, x.sliced.outer))


def pull_unsqueeze(call: Call, want: Sliced) -> Outcome:
    """The inverse of ``unsqueeze``."""
    new = normal(call.arg(1, "dim"), len(call.out_shape))
    return Cut((Sliced(want.dim - (want.dim > new), want.outer),), want)


def squeezed(call: Call) -> list[int]:
    """The dimensions that ``squeeze`` removes."""
    (x,) = call.operands
    dims = call.arg(1, "dim")
    if dims is None:
        named: list[int] = list(range(x.rank))
    elif isinstance(dims, int):
        named = [normal(dims, x.rank)]
    else:
        named = [normal(d, x.rank) for d in dims]
    return [d for d in named if x.shape[d] == 1]


def squeeze(call: Call) -> Outcome:
    """Dimensions of extent 1 go; ``dims`` names each, so that a slice of one row keeps its own."""
    (x,) = call.operands
    assert x.sliced is not None
    gone = squeezed(call)
    state = Sliced(x.sliced.dim - sum(d < x.sliced.dim for d in gone), x.sliced.outer)

    def build(args: tuple[Any, ...], *_: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        return aten.squeeze.dims, (args[0], gone), {}

    return Cut((x.sliced,), state, build=build)


def expand(call: Call) -> Outcome:
    """Broadcast to a shape; the sizes are rewritten for each slice."""
    (x,) = call.operands
    assert x.sliced is not None
    out = Sliced(x.sliced.dim + len(call.out_shape) - x.rank, x.sliced.outer)
    return pull_expand(call, out)


def pull_expand(call: Call, want: Sliced) -> Outcome:
    """A value broadcast along the cut dimension is simply broadcast to fewer rows."""
    (x,) = call.operands
    dim = want.dim - (len(call.out_shape) - x.rank)
    state: States = WHOLE if dim < 0 or x.shape[dim] == 1 else Sliced(dim, want.outer)
    return Cut((state,), want, (Scaled(1, want.dim, call.out_shape[want.dim]),))


def slice_(call: Call) -> Outcome:
    """``x[start:end:step]``: free on other dimensions; on the cut one, whole blocks only."""
    (x,) = call.operands
    assert x.sliced is not None
    dim = normal(call.arg(1, "dim", 0), x.rank)
    if dim != x.sliced.dim:
        return Cut((x.sliced,), x.sliced)
    extent = x.shape[dim]
    start, end, step = call.arg(2, "start"), call.arg(3, "end"), call.arg(4, "step", 1)
    if not (isinstance(extent, int) and isinstance(x.sliced.outer, int) and step == 1):
        return Refusal("a slice of the cut dimension itself")
    first = min(max((start or 0) + (extent if (start or 0) < 0 else 0), 0), extent)
    last = extent if end is None else min(end + (extent if end < 0 else 0), extent)
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


def select(call: Call) -> Outcome:
    """``x[..., i, ...]`` on a dimension that is not cut."""
    (x,) = call.operands
    assert x.sliced is not None
    gone = normal(call.arg(1, "dim"), x.rank)
    if gone == x.sliced.dim:
        return Refusal("selects one row of the cut dimension")
    return Cut((x.sliced,), Sliced(x.sliced.dim - (gone < x.sliced.dim), x.sliced.outer))


def unbind(call: Call) -> Outcome:
    """All of ``x[..., i, ...]`` on a dimension that is not cut."""
    (x,) = call.operands
    assert x.sliced is not None
    gone = normal(call.arg(1, "dim", 0), x.rank)
    if gone == x.sliced.dim:
        return Refusal("unbinds the cut dimension")
    state = Sliced(x.sliced.dim - (gone < x.sliced.dim), x.sliced.outer)
    return Cut((x.sliced,), tuple(state for _ in call.out))


def split(call: Call) -> Outcome:
    """``split`` and ``split_with_sizes``: on the cut dimension, whole blocks only."""
    (x,) = call.operands
    assert x.sliced is not None
    dim = normal(call.arg(2, "dim", 0), x.rank)
    if dim != x.sliced.dim:
        return Cut((x.sliced,), tuple(x.sliced for _ in call.out))
    block = quotient(x.shape[dim], x.sliced.outer)
    pieces: list[Sliced] = []
    for shape in call.out:
        count = quotient(shape[dim], block) if block is not None else None
        if count is None:
            return Refusal("splits the cut axis itself")
        pieces.append(Sliced(dim, count))
    lengths = call.args[1]
    if isinstance(lengths, (tuple, list)):
        scaled = tuple(Scaled(1, i, shape[dim]) for i, shape in enumerate(call.out))
    else:
        scaled = (Scaled(1, None, call.out[0][dim]),)
    return Cut((x.sliced,), tuple(pieces), scaled)


def cat(call: Call) -> Outcome:
    """Concatenation: beside the cut dimension, or of equal blocks along it (rank-major)."""
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


def stack(call: Call) -> Outcome:
    """Stacking on a new dimension."""
    lead = next(call.cut_operands())
    assert lead.sliced is not None
    new = normal(call.arg(1, "dim", 0), len(call.out_shape))
    out = Sliced(lead.sliced.dim + (lead.sliced.dim >= new), lead.sliced.outer)
    return Cut(tuple(lead.sliced for _ in call.operands), out)


def beside_dims(call: Call) -> Outcome:
    """Operations that act along given dimensions (``flip``, ``roll``) and not along the cut one."""
    (x,) = call.operands
    assert x.sliced is not None
    dims = call.arg(2, "dims") if call.op is aten.roll.default else call.arg(1, "dims")
    if not dims or x.sliced.dim in [normal(d, x.rank) for d in dims]:
        return Refusal("acts along the cut dimension")
    return Cut((x.sliced,), x.sliced)


def pad(call: Call) -> Outcome:
    """Constant padding of dimensions that are not cut."""
    (x,) = call.operands
    assert x.sliced is not None
    amounts = call.arg(1, "pad")
    at = 2 * (x.rank - 1 - x.sliced.dim)
    if any(amount != 0 for amount in amounts[at : at + 2]):
        return Refusal("pads the cut dimension")
    return Cut((x.sliced,), x.sliced)


def slice_scatter(call: Call) -> Outcome:
    """A slice written into a value (the backward of ``slice``), on a dimension that is not cut."""
    lead = next(call.cut_operands())
    assert lead.sliced is not None
    if normal(call.arg(2, "dim", 0), lead.rank) == lead.sliced.dim:
        return Refusal("writes a slice of the cut dimension")
    return Cut((lead.sliced, lead.sliced), lead.sliced)


def select_scatter(call: Call) -> Outcome:
    """One index written into a value (the backward of ``select``)."""
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


def repeat(call: Call) -> Outcome:
    """``repeat``: tiling of dimensions that are not cut."""
    (x,) = call.operands
    assert x.sliced is not None
    repeats = call.arg(1, "repeats")
    dim = x.sliced.dim + len(repeats) - x.rank
    if repeats[dim] != 1:
        return Refusal("repeats the cut dimension")
    return Cut((x.sliced,), Sliced(dim, x.sliced.outer))


RULES = {
    **family(
        "view",
        view,
        (aten.view.default, aten._unsafe_view.default, aten.reshape.default),
        pull_view,
    ),
    **family(
        "permute",
        permute,
        (aten.permute.default, aten.transpose.int, aten.t.default),
        pull_permute,
    ),
    **family("unsqueeze", unsqueeze, (aten.unsqueeze,), pull_unsqueeze),
    **family("squeeze", squeeze, (aten.squeeze,)),
    **family("expand", expand, (aten.expand.default,), pull_expand),
    **family("slice", slice_, (aten.slice.Tensor,)),
    **family("select", select, (aten.select.int,)),
    **family("unbind", unbind, (aten.unbind.int,)),
    **family("split", split, (aten.split.Tensor, aten.split_with_sizes.default)),
    **family("cat", cat, (aten.cat.default,)),
    **family("stack", stack, (aten.stack.default,)),
    **family("beside dims", beside_dims, (aten.flip.default, aten.roll.default)),
    **family("pad", pad, (aten.constant_pad_nd.default,)),
    **family("slice_scatter", slice_scatter, (aten.slice_scatter.default,)),
    **family("select_scatter", select_scatter, (aten.select_scatter.default,)),
    **family("repeat", repeat, (aten.repeat.default,)),
}
