"""Movements: where an element of the result of a view, a join or a cut comes from.

Coordinates are as in ``elements``: the first row is the rank, the others are the indices. Each
function takes an operation, elements of its result and the shape of its operand, and returns the
elements of the operand; ``None`` if that is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from domino_compile.verify.dealing import arrangements, arrivals
from domino_compile.verify.plain import ARRANGE, EXCHANGE, GETITEM, OWN_PART, Operation
from domino_compile.verify.transported import WAITS

Points: TypeAlias = Any  # an integer array (1 + dimensions, elements)


def _flat(points: Points, shape: tuple[int, ...]) -> Any:
    flat = np.zeros(points.shape[1], dtype=np.int64)
    for row, extent in zip(points[1:], shape, strict=True):
        flat = flat * extent + row
    return flat


def _view(op: Operation, at: Points, shape: tuple[int, ...]) -> Points:
    flat, rows = _flat(at, op.tensor.shape), []
    for extent in reversed(shape):
        rows.append(flat % max(extent, 1))
        flat = flat // max(extent, 1)
    return np.stack([at[0], *reversed(rows)])


def _permute(op: Operation, at: Points, shape: tuple[int, ...]) -> Points:
    rank = len(shape)
    if op.target == "aten.permute.default":
        order = [d % rank for d in op.args[1]]
    else:
        order = list(range(rank))
        a, b = (0, 1) if op.target == "aten.t.default" else op.args[1:3]
        if rank > 1:
            order[a % rank], order[b % rank] = order[b % rank], order[a % rank]
    moved = at.copy()
    for place, dim in enumerate(order):
        moved[dim + 1] = at[place + 1]
    return moved


def _expand(op: Operation, at: Points, shape: tuple[int, ...]) -> Points:
    rows = at[at.shape[0] - len(shape) :].copy() if shape else at[:0]
    for place, extent in enumerate(shape):
        if extent == 1:
            rows[place] = 0
    return np.concatenate([at[:1], rows])


def _slice(op: Operation, at: Points, shape: tuple[int, ...]) -> Points | None:
    if op.kwargs:
        return None
    given = dict(enumerate(op.args))
    dim, start, step = given.get(1, 0), given.get(2), given.get(4, 1)
    extent = shape[dim % len(shape)]
    start = min(max((start or 0) + (extent if (start or 0) < 0 else 0), 0), extent)
    moved = at.copy()
    moved[dim % len(shape) + 1] = at[dim % len(shape) + 1] * step + start
    return moved


def _select(op: Operation, at: Points, shape: tuple[int, ...]) -> Points:
    dim, index = op.args[1] % len(shape), op.args[2]
    index += shape[dim] if index < 0 else 0
    row = np.full((1, at.shape[1]), index, dtype=np.int64)
    return np.concatenate([at[: dim + 1], row, at[dim + 1 :]])


def _stay(op: Operation, at: Points, shape: tuple[int, ...]) -> Points:
    return at


def member(op: Operation, base: Operation, at: Points) -> Points | None:
    """Return where an element of one result of a split is in what was split."""
    index = op.args[1]
    if base.target not in SPLITS or not isinstance(base.value, tuple) or base.kwargs:
        return None
    dim = base.args[2] if len(base.args) > 2 else 0
    moved = at.copy()
    moved[dim % (at.shape[0] - 1) + 1] += sum(x.shape[dim] for x in base.value[:index])
    return moved


def _gather(op: Operation, at: Points, shape: tuple[int, ...]) -> Points:
    moved = at.copy()
    moved[0], moved[1] = at[1] // shape[0], at[1] % shape[0]
    return moved


def _exchange(op: Operation, at: Points, shape: tuple[int, ...]) -> Points | None:
    if len({*op.args[1], *op.args[2]}) != 1:
        return None
    size = op.args[1][0]
    moved = at.copy()
    moved[0], moved[1] = at[1] // size, at[0] * size + at[1] % size
    return moved


def _own_part(op: Operation, at: Points, shape: tuple[int, ...]) -> Points:
    dim, ranks = op.args[1], op.args[2]
    moved = at.copy()
    moved[dim + 1] += at[0] * (shape[dim] // ranks)
    return moved


def _all_to_all_tokens(op: Operation, at: Points, shape: tuple[int, ...]) -> Points:
    come_from = arrivals(op)
    moved = at.copy()
    for rank, sources in enumerate(come_from):
        mine = at[0] == rank
        moved[0, mine], moved[1, mine] = sources[:, at[1, mine]]
    return moved


def _arrange_tokens(op: Operation, at: Points, shape: tuple[int, ...]) -> Points:
    moved = at.copy()
    for rank, order in enumerate(arrangements(op)):
        mine = at[0] == rank
        moved[1, mine] = order[at[1, mine]]
    return moved


def _from_source(op: Operation, at: Points, shape: tuple[int, ...]) -> Points:
    moved = at.copy()
    moved[0] = op.args[1]
    return moved


def join(op: Operation, at: Points, shape: tuple[int, ...]) -> Points | None:
    """Stand for joins, which are followed into one of several operands (``elements``)."""
    raise NotImplementedError("a join has several operands")


MOVES: dict[str, Callable[[Operation, Points, tuple[int, ...]], Points | None]] = {
    **dict.fromkeys(
        (
            "aten.view.default", "aten._unsafe_view.default", "aten.reshape.default",
            "aten.unsqueeze.default", "aten.squeeze.default", "aten.squeeze.dim",
            "aten.squeeze.dims",
        ),
        _view,
    ),
    **dict.fromkeys(
        ("aten.permute.default", "aten.transpose.int", "aten.t.default"), _permute
    ),
    "aten.expand.default": _expand,
    "aten.slice.Tensor": _slice,
    "aten.select.int": _select,
    "aten.cat.default": join,
    GETITEM: _stay,
    "_c10d_functional.all_gather_into_tensor.default": _gather,
    "domino_compile.gather_start.default": _gather,
    "_c10d_functional.all_to_all_single.default": _exchange,
    "_c10d_functional.broadcast.default": _from_source,
    OWN_PART: _own_part,
    EXCHANGE: _all_to_all_tokens,
    ARRANGE: _arrange_tokens,
    **dict.fromkeys(
        (
            "aten.clone.default", "aten.alias.default", "aten.detach.default",
            "aten.contiguous.default", "_c10d_functional.wait_tensor.default",
            *(f"domino_compile.{wait}.default" for wait in WAITS),
        ),
        _stay,
    ),
}  # fmt: skip


SPLITS = ("aten.split.Tensor", "aten.split_with_sizes.default")
