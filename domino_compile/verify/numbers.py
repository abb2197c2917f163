"""Proof by numbers: both forms are run on the same random values, in float64.

Every rank's operands before are random, but for those that count (``COUNTS``), which are what they
are. The operands after are made of them as the claims say.
The result after must be what the goal says of the result before. Sums, products and polynomials
that agree at one random point agree everywhere, but for an event of probability zero. Integers and
bits may agree by chance, so these are drawn several times.

Large sizes are replaced by small ones first (``sizes``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from domino_compile import _compat
from domino_compile.verify import flex, narrow, uninitialised
from domino_compile.verify.claims import Claim, Piece, Whole
from domino_compile.verify.interpret import Ranks, Unknown, run
from domino_compile.verify.movements import MOVES
from domino_compile.verify.part import Part
from domino_compile.verify.plain import COUNTS, Operation, Ref, Tensor
from domino_compile.verify.reads import is_pointwise
from domino_compile.verify.sizes import reduced

#: How often integers and bits are drawn: with few of them, one draw in two may agree by chance.
DRAWS = 20
#: Operations that take elements along a dimension of their first operand, by an index.
INDEXED = (
    "aten.gather.default",
    "aten.scatter.src",
    "aten.scatter.value",
    "aten.scatter_add.default",
)
#: The same along each dimension that it has an index for.
INDEX = "aten.index.Tensor"
NOTHING_FINITE = "no random numbers were found for which it is finite"
#: How far results may differ, relative to the largest: a few hundred roundings of float64.
TOLERANCE = 1e-9


def refuted(part: Part) -> str | None:
    """Return why the goal is not established; ``None`` if both forms agree."""
    if len(part.groups) > 1:
        return "collectives of several groups lie between values that are established"
    if part.own_ranks and not _plainly_claimed(part):
        return "what ranks get by the transport is neither whole nor this rank's alone"
    if any(op.target in flex.ROWS for side in (part.before, part.after) for op in side.values()):
        return "FlexAttention reads other rows, blocks or functions"  # here blocks would be ignored
    try:
        part = reduced(part)
        with _compat.on_real_tensors(), torch.no_grad():
            state, floats = torch.random.get_rng_state(), torch.get_default_dtype()
            try:
                torch.set_default_dtype(torch.float64)  # for what is made of integers
                return _compare(part)
            finally:
                torch.set_default_dtype(floats)
                torch.random.set_rng_state(state)
    except Unknown as unknown:
        return str(unknown)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return f"both forms cannot be compared: {str(error).splitlines()[0]}"


def _plainly_claimed(part: Part) -> bool:
    """Return whether all claims are of whole values, and about one rank of the group."""
    claims = (part.goal, *(given.claim for given in part.given.values()))
    whole = all(isinstance(claim, Whole) and not claim.summed_over for claim in claims)
    return whole and len(part.own_ranks) == 1


def _compare(part: Part) -> str | None:
    chooses = any(op.target == "higher_order.cond" for op in part.before.values())
    for condition in (True, False) if chooses else (None,):
        if (reason := _compare_draws(part, condition)) is not None:
            return reason
    return None


def _compare_draws(part: Part, condition: bool | None) -> str | None:
    """Compare both forms on every draw; one that leaves nothing finite says nothing."""
    reason: str | None = NOTHING_FINITE
    for seed in range(DRAWS if _draws_few(part) else 1):
        torch.default_generator.manual_seed(seed)  # those of other devices are the user's
        found = _compare_if(part, condition)
        if found not in (None, NOTHING_FINITE):
            return found
        reason = reason and found
    return reason


def _draws_few(part: Part) -> bool:
    """Return whether two draws may be equal by chance, as those of a few indices or bits may be.

    Memory that nothing has written may be made of them too.
    """
    calls = (op for side in (part.before, part.after) for op in side.values())
    drawn = (
        getattr(torch, op.value.dtype)
        for op in part.inputs.values()
        if isinstance(op.value, Tensor)
    )
    return any(op.target in uninitialised.OPERATIONS for op in calls) or any(
        not (dtype.is_floating_point or dtype.is_complex) for dtype in drawn
    )


def _compare_if(part: Part, condition: bool | None) -> str | None:
    """Compare both forms, where conditions are as given."""
    for attempt in (_any, _positive):
        before, after = _both(part, attempt, condition)
        if not all(x.isfinite().any() for x in after if x.numel()):
            continue  # a logarithm of negative numbers, say
        return _difference(before, after)
    return NOTHING_FINITE


def _both(part: Part, make: Any, condition: bool | None) -> tuple[Ranks, Ranks]:
    ranks = part.ranks
    most = dict.fromkeys(part.inputs, _least(part)) | _extents(part)
    env = {name: [make(op, most[name]) for _ in range(ranks)] for name, op in part.inputs.items()}
    if (special := _compared_with(part)) is not None:
        for name, values in env.items():
            env[name] = [_with_some(x, special) for x in values]
    if condition is not None:
        for name, values in env.items():
            if values[0].dtype is torch.bool and values[0].numel() == 1:
                env[name] = [torch.full_like(values[0], condition)] * ranks
    counts = [op for op in part.inputs.values() if op.target in COUNTS]
    run(counts, env, part.graphs[0], ranks)
    for name in part.equal_on_ranks:
        env[name] = [env[name][0]] * ranks
    other = {name: _given(x.claim, env[x.before]) for name, x in part.given.items()}
    run(part.before.values(), env, part.graphs[0], ranks)
    run(part.after.values(), other, part.graphs[1], ranks)
    expected = _stands(part.goal, env[part.about])
    actual = other[part.goal.node]
    if part.own_ranks:
        (own,) = part.own_ranks
        return [expected[own]], [actual[own]]
    if isinstance(part.goal, Whole) and part.goal.summed_over:
        return [torch.stack(expected).sum(0)], [torch.stack(actual).sum(0)]
    return expected, actual


def _compared_with(part: Part) -> list[int] | None:
    """Return the integers that pointwise operations compare with; ``None`` if others take part.

    A label of -100 is ignored: without such labels, those of another slice would be as good.
    """
    calls = [op for side in (part.before, part.after) for op in side.values()]
    if not all(is_pointwise(op.target) or op.target in MOVES for op in calls):
        return None
    return [x for op in calls for x in op.args if type(x) is int] or None


def _with_some(value: Any, special: list[int]) -> Any:
    """Return integers some of which are special."""
    if value.dtype is torch.bool or value.is_floating_point() or value.is_complex():
        return value
    chosen = torch.tensor(special)[torch.randint(len(special), value.shape)].to(value.dtype)
    return torch.where(torch.rand(value.shape) < 0.4, chosen, value)


def _given(claim: Claim, values: Ranks) -> Ranks:
    """Return an operand after: what a claim says, or any values that have the same sum."""
    if isinstance(claim, Whole) and claim.summed_over:
        noise = [torch.randn_like(value) for value in values]
        return [x + a - b for x, a, b in zip(values, noise, noise[1:] + noise[:1], strict=True)]
    return _stands(claim, values)


def _stands(claim: Claim, values: Ranks) -> Ranks:
    """Return what a claim says of a value on all ranks."""
    if isinstance(claim, Whole):
        return values
    if claim.dealt_over:
        whole = torch.cat(values, claim.dim)
        part = whole.narrow(claim.dim, claim.start, claim.length)
        return list(part.chunk(len(values), claim.dim))
    return [_rows(claim, value) for value in values]


def _rows(claim: Piece, value: torch.Tensor) -> torch.Tensor:
    shape = value.shape
    extent = shape[claim.dim] // claim.outer
    opened = value.reshape(*shape[: claim.dim], claim.outer, extent, *shape[claim.dim + 1 :])
    part = opened.narrow(claim.dim + 1, claim.start, claim.length)
    rows = claim.outer * claim.length
    return part.reshape(*shape[: claim.dim], rows, *shape[claim.dim + 1 :])


def _least(part: Part) -> int:
    """Return a number that every index may have: the least extent of what may be indexed."""
    shapes = [op.tensor.shape for op in part.inputs.values() if isinstance(op.value, Tensor)]
    return min([8, *(n for shape in shapes for n in shape if n > 1)])


def _extents(part: Part) -> dict[str, int]:
    """Return the extents of what operands index that are given to an operation as its index."""
    known = part.inputs | part.before
    extents: dict[str, int] = {}
    for op in part.before.values():
        for source, dim, index in _indexed(op):
            value = known[source.name].value
            if isinstance(index, Ref) and index.name in part.inputs and isinstance(value, Tensor):
                extent = max(1, (value.shape or (1,))[dim])
                extents[index.name] = min(extent, extents.get(index.name, extent))
    return extents


def _indexed(op: Operation) -> Iterator[tuple[Ref, int, Any]]:
    """Yield what an operation takes elements of, along which dimension, and the index."""
    if op.target in INDEXED:
        yield op.args[0], op.args[1], op.args[2]
    elif op.target == INDEX:
        for dim, index in enumerate(op.args[1]):
            yield op.args[0], dim, index


def _any(op: Operation, least: int) -> Any:
    if not isinstance(op.value, Tensor):
        raise Unknown(f"{op.name}, which is no tensor, is an operand")
    shape, dtype = op.value.shape, getattr(torch, op.value.dtype)
    if dtype is torch.bool:
        return torch.rand(shape) < 0.5
    if dtype.is_complex:
        return torch.randn(shape, dtype=torch.complex128)
    if not dtype.is_floating_point:
        return torch.randint(0, least, shape, dtype=dtype)
    return narrow.as_declared(torch.randn(shape, dtype=torch.float64), op.value)


def _positive(op: Operation, least: int) -> Any:
    made = _any(op, least)
    if made.dtype is not torch.float64:
        return made
    return narrow.as_declared(torch.rand_like(made) * 0.7 + 0.2, op.value)


def _difference(before: Ranks, after: Ranks) -> str | None:
    for expected, actual in zip(before, after, strict=True):
        if not isinstance(actual, torch.Tensor) or actual.shape != expected.shape:
            return f"its shape is {list(getattr(actual, 'shape', []))}, not {list(expected.shape)}"
        if actual.dtype != expected.dtype:
            return f"it is made of {actual.dtype}, not of {expected.dtype}"
        if not expected.numel():
            continue
        if not expected.is_floating_point() and not expected.is_complex():
            if not torch.equal(expected, actual):
                return "its numbers differ"
            continue
        finite = expected[expected.isfinite()]
        scale = float(finite.abs().max()) if finite.numel() else 1.0
        if not torch.allclose(expected, actual, rtol=0.0, atol=TOLERANCE * scale, equal_nan=True):
            error = float((expected - actual).nan_to_num(torch.inf).abs().max())
            return f"its numbers differ by {error:.2g} (the largest is {scale:.2g})"
    return None
