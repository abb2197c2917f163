"""Operations that only change the shape: views, permutations, broadcasts."""

from __future__ import annotations

from typing import Any

import torch

from domino_compile.axes import WHOLE, Shape, Size, Sliced, States, quotient
from domino_compile.axes.sizes import product, same
from domino_compile.rules.call import Build, Call, Cut, Outcome, Refusal, Scaled
from domino_compile.rules.rule import Trait, family

aten = torch.ops.aten


def normal(dim: Any, rank: int) -> int:
    """Return a dimension counted from the front."""
    return int(dim) % max(rank, 1)


def follow_view(before: Shape, after: Shape, state: Sliced, batch: Size) -> Sliced | None:
    """Return the cut state of a tensor that is viewed in another shape; ``None`` if impossible.

    The batch keeps its position among the factors of the flattened tensor: ``outer`` elements
    before it, counted over all leading dimensions.
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
    """Cut a reshape: the sizes of the result are rewritten for each slice."""
    (x,) = call.operands
    assert x.sliced is not None
    state = follow_view(x.shape, call.out_shape, x.sliced, call.batch)
    if state is None:
        return Refusal(f"the view {x.shape} -> {call.out_shape} mixes the cut axis with others")
    return Cut((x.sliced,), state, (Scaled(1, state.dim, call.out_shape[state.dim]),))


def pull_view(call: Call, want: Sliced) -> Outcome:
    """Pull a reshape by following the inverse view."""
    (x,) = call.operands
    state = follow_view(call.out_shape, x.shape, want, call.batch)
    if state is None:
        return Refusal(f"the view {x.shape} -> {call.out_shape} mixes the cut axis with others")
    return Cut((state,), want, (Scaled(1, want.dim, call.out_shape[want.dim]),))


def permutation_of(call: Call) -> list[int]:
    """Return ``order``: ``order[j]`` is the input dimension that becomes dimension ``j``."""
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
    """Cut a permutation: the cut dimension moves."""
    (x,) = call.operands
    assert x.sliced is not None
    return Cut((x.sliced,), Sliced(permutation_of(call).index(x.sliced.dim), x.sliced.outer))


def pull_permute(call: Call, want: Sliced) -> Outcome:
    """Pull a permutation by inverting it."""
    return Cut((Sliced(permutation_of(call)[want.dim], want.outer),), want)


def unsqueeze(call: Call) -> Outcome:
    """Cut ``unsqueeze``, which adds a dimension of extent 1."""
    (x,) = call.operands
    assert x.sliced is not None
    new = normal(call.arg(1, "dim"), len(call.out_shape))
    dim = x.sliced.dim + (x.sliced.dim >= new)
    return Cut((x.sliced,), Sliced(dim, x.sliced.outer))


def pull_unsqueeze(call: Call, want: Sliced) -> Outcome:
    """Pull ``unsqueeze``: the inverse of its rule."""
    new = normal(call.arg(1, "dim"), len(call.out_shape))
    return Cut((Sliced(want.dim - (want.dim > new), want.outer),), want)


def squeezed(call: Call) -> list[int]:
    """Return the dimensions that ``squeeze`` removes."""
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
    """Cut ``squeeze``; its ``dims`` are named, so that a slice of one row keeps that dimension."""
    (x,) = call.operands
    assert x.sliced is not None
    gone = squeezed(call)
    state = Sliced(x.sliced.dim - sum(d < x.sliced.dim for d in gone), x.sliced.outer)
    return Cut((x.sliced,), state, build=squeeze_named(gone))


def pull_squeeze(call: Call, want: Sliced) -> Outcome:
    """Pull ``squeeze``: the inverse of its rule."""
    (x,) = call.operands
    gone = squeezed(call)
    kept = [d for d in range(x.rank) if d not in gone]
    return Cut((Sliced(kept[want.dim], want.outer),), want, build=squeeze_named(gone))


def squeeze_named(dims: list[int]) -> Build:
    """Return a builder of ``squeeze`` of exactly these dimensions."""

    def build(args: tuple[Any, ...], *_: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        return aten.squeeze.dims, (args[0], dims), {}

    return build


def expand(call: Call) -> Outcome:
    """Cut a broadcast to a shape: the sizes are rewritten for each slice."""
    (x,) = call.operands
    assert x.sliced is not None
    out = Sliced(x.sliced.dim + len(call.out_shape) - x.rank, x.sliced.outer)
    return pull_expand(call, out)


def pull_expand(call: Call, want: Sliced) -> Outcome:
    """Pull a broadcast: along the wanted dimension the value is broadcast to fewer rows."""
    (x,) = call.operands
    dim = want.dim - (len(call.out_shape) - x.rank)
    state: States = WHOLE if dim < 0 or x.shape[dim] == 1 else Sliced(dim, want.outer)
    return Cut((state,), want, (Scaled(1, want.dim, call.out_shape[want.dim]),))


def repeat(call: Call) -> Outcome:
    """Cut ``repeat``: ``n`` copies of the cut dimension are ``n`` blocks of it."""
    (x,) = call.operands
    assert x.sliced is not None
    repeats = call.arg(1, "repeats")
    dim = x.sliced.dim + len(repeats) - x.rank
    if repeats[dim] == 0:
        return Refusal("repeats the cut dimension zero times")
    return Cut((x.sliced,), Sliced(dim, product((repeats[dim], x.sliced.outer))))


def reinterpret(call: Call) -> Outcome:
    """Cut ``view.dtype``, which reads the same bytes as another type.

    Types of other sizes change the last dimension's extent, by a factor that need not divide that
    of a slice.
    """
    x = call.operands[0]
    assert x.sliced is not None
    is_resized = not same(call.out_shape[-1], x.shape[-1]) if x.rank else False
    if x.sliced.dim == x.rank - 1 and is_resized:
        return Refusal("reads elements of the cut dimension as elements of another size")
    return Cut((x.sliced,), x.sliced)


RULES = {
    **family(
        "view",
        view,
        (aten.view.default, aten._unsafe_view.default, aten.reshape.default),
        pull_view,
        traits=Trait.RESHAPES,
    ),
    **family("reinterpret", reinterpret, (aten.view.dtype,)),
    **family(
        "permute",
        permute,
        (aten.permute.default, aten.transpose.int, aten.t.default),
        pull_permute,
        traits=Trait.RESHAPES,
    ),
    **family("unsqueeze", unsqueeze, (aten.unsqueeze,), pull_unsqueeze, traits=Trait.RESHAPES),
    **family("squeeze", squeeze, (aten.squeeze,), pull_squeeze, traits=Trait.RESHAPES),
    **family("expand", expand, (aten.expand.default,), pull_expand, traits=Trait.RESHAPES),
    **family("repeat", repeat, (aten.repeat.default,)),
}
