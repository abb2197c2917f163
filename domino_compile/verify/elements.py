"""Proof by structure: which elements of which operands an element is computed from.

Views, joins, cuts, counts and constants only move elements: an element after is followed back
through them to an element of an operand before, by its coordinates, in full size. Two operations
compute equal elements if they are the same operation with the same arguments and read equal
elements in the same order. Which elements are read is known for pointwise operations, collectives
and those in ``ALIGNED``; of others the answer is ``False``, and the numbers decide.

Coordinates are arrays of integers, one column for each followed element. The first row is the rank
that holds it (of the collectives' group), the other rows are its indices. Corners of the value and
random elements are followed. The maps are products of maps of single dimensions, each of which has
few pieces, whose ends are at corners.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from domino_compile.verify import flex
from domino_compile.verify.claims import Piece, Whole
from domino_compile.verify.movements import MOVES, Points, join, member
from domino_compile.verify.part import Part
from domino_compile.verify.plain import GETITEM, Operation, Tensor
from domino_compile.verify.reads import ALL_TO_ALL, Read, others, reads_of, same_rows_exchanged

#: An element as far as it was followed: an operation, and where in its result.
Place: TypeAlias = tuple[Operation, Points]

RANDOM, CORE = 24, 5
aten = "aten."


def proved(part: Part) -> bool:
    """Return whether the part's goal follows from the structure."""
    goal = part.after[part.goal.node]
    if isinstance(part.goal, Whole) and part.goal.summed_over:
        return False
    about = (part.before or part.inputs)[part.about]
    if not isinstance(goal.value, Tensor) or not isinstance(about.value, Tensor):
        return False
    if len(part.groups) > 1:
        return False  # ranks of two groups are two coordinates
    follow = _Follow(part, np.random.default_rng(0))
    points = follow.points(goal.value.shape)
    return follow.equal(goal, points, about, located(part.goal, about.value.shape, points))


def located(claim: Piece | Whole, shape: tuple[int, ...], points: Points) -> Points:
    """Return where elements of a claimed value are in the value before, which has a shape."""
    if isinstance(claim, Whole):
        return points
    moved = points.copy()
    row, outer = claim.dim + 1, claim.outer
    if claim.dealt_over:
        rows = shape[claim.dim]  # of each rank; the whole is all ranks' rows
        share = claim.length // claim.ranks
        at = claim.start + points[0] * share + points[row]
        moved[0], moved[row] = at // rows, at % rows
        return moved
    block = shape[claim.dim] // outer
    moved[row] = points[row] // claim.length * block + claim.start + points[row] % claim.length
    return moved


class _Follow:
    """Follows elements through the operations of one part."""

    def __init__(self, part: Part, random: Any) -> None:
        self.part, self.random, self.ranks = part, random, part.ranks

    def points(self, shape: tuple[int, ...], core: Points | None = None) -> Points:
        """Return corners and random elements of a value."""
        extents = [self.ranks, *shape]
        if 0 in extents:
            return np.zeros((len(extents), 0), dtype=np.int64)
        columns = [self.random.integers(0, n, RANDOM) for n in extents]
        samples = [np.stack(columns)]
        for place in range(len(extents)):
            for value in (0, extents[place] - 1):
                corner = np.stack([self.random.integers(0, n, 2) for n in extents])
                corner[place] = value
                samples.append(corner)
        last = np.array([n - 1 for n in extents])[:, None]
        return np.concatenate([*samples, last * 0, last], axis=1)

    def equal(self, after: Operation, at: Points, before: Operation, where: Points) -> bool:
        """Return whether elements after equal elements before."""
        for place, chosen in self._moved(after, at, self.part.after, np.arange(at.shape[1])):
            if place is None:
                return False
            for other, among in self._moved(
                before, where[:, chosen], self.part.before, np.arange(len(chosen))
            ):
                if other is None:
                    return False
                op, points = place
                if not self._same(op, points[:, among], *other):
                    return False
        return True

    def _same(self, after: Operation, at: Points, before: Operation, where: Points) -> bool:
        """Return whether elements are equal that no movement explains further."""
        given = self.part.given.get(after.name)
        if given is not None:
            claim, source = given.claim, self.part.inputs.get(given.before)
            if source is None or source.name != before.name:
                return False
            if isinstance(claim, Whole) and claim.summed_over:
                return False
            at = located(claim, before.tensor.shape, at)
            if isinstance(claim, Whole) and self.part.dealt:
                at, where = at[1:], where[1:]  # equal on all ranks
            return np.array_equal(at, where)
        if before.name in self.part.inputs:
            return False
        constants = _constant(after), _constant(before)
        if constants[0] is not None or constants[1] is not None:
            return bool(constants[0] == constants[1])
        if (drawn := _drawn(after, at)) is not None:
            other = _drawn(before, where)
            return other is not None and self._same_draw(drawn, other)
        return self._same_operation(after, at, before, where)

    def _same_draw(self, one: Any, other: Any) -> bool:
        (sizes, seed, at), (other_sizes, other_seed, where) = one, other
        zero = at[:1] * 0
        if sizes != other_sizes or not np.array_equal(at, where):
            return False
        if seed is None or other_seed is None:
            return seed is other_seed
        return self.equal(self._after(seed), zero, self._before(other_seed), zero)

    def _same_operation(
        self, after: Operation, at: Points, before: Operation, where: Points
    ) -> bool:
        """Return whether two operations are the same and read equal elements."""
        if after.target == before.target == GETITEM:
            return self._same_row(after, at, before, where)
        if after.target != before.target or others(after) != others(before):
            return False
        if type_of(after.value) != type_of(before.value):
            return False
        if after.target == ALL_TO_ALL and not same_rows_exchanged(after, at, before, where):
            return False
        mine, theirs = reads_of(after, self._after), reads_of(before, self._before)
        if mine is None or theirs is None or len(mine) != len(theirs):
            return False
        for one, other in zip(mine, theirs, strict=True):
            operand, source = self._after(one.name), self._before(other.name)
            if not (isinstance(operand.value, Tensor) and isinstance(source.value, Tensor)):
                return False
            pairs = _aligned(one, other, operand.value, source.value, at, where, self)
            if pairs is None or not self.equal(operand, pairs[0], source, pairs[1]):
                return False
        return True

    def _same_row(self, after: Operation, at: Points, before: Operation, where: Points) -> bool:
        """Return whether results of FlexAttention are computed from equal rows."""
        calls = self._after(after.operands[0]), self._before(before.operands[0])
        member = after.args[1]
        if (
            member != before.args[1]
            or member >= flex.RESULTS
            or after.tensor.dtype != before.tensor.dtype
        ):
            return False
        graphs = self.part.graphs[1], self.part.graphs[0]
        if not flex.same_call(*calls, graphs) or not np.array_equal(at[2:], where[2:]):
            return False
        reads = [flex.rows_read(op, graph) for op, graph in zip(calls, graphs, strict=True)]
        if reads[0] is None or reads[1] is None:
            return False
        for (name, dim), (other, along) in zip(*reads, strict=True):
            operand, source = self._after(name), self._before(other)
            if dim != along or not (
                isinstance(operand.value, Tensor) and isinstance(source.value, Tensor)
            ):
                return False
            dims = tuple(0 if place == dim else None for place in range(len(operand.value.shape)))
            mine, theirs = _row_of(operand.value, dim, at), _row_of(source.value, dim, where)
            read = Read(name, dims)
            pairs = _aligned(read, read, operand.value, source.value, mine, theirs, self)
            if pairs is None or not self.equal(operand, pairs[0], source, pairs[1]):
                return False
        return True

    def _after(self, name: str) -> Operation:
        operation = self.part.after.get(name)
        return operation if operation is not None else self._given(name)

    def _given(self, name: str) -> Operation:
        operation: Operation = self.part.graphs[1].operations[name]
        return operation

    def _before(self, name: str) -> Operation:
        operation = self.part.before.get(name)
        return operation if operation is not None else self.part.inputs[name]

    def _moved(self, op: Operation, at: Points, inside: dict[str, Operation], chosen: Any) -> Any:
        """Follow elements through what only moves them.

        Yields:
            Where groups of elements come from (``None``: unknown), and which elements these are.
        """
        while op.name in inside and (move := MOVES.get(op.target)) is not None:
            if move is join:
                yield from self._joined(op, at, inside, chosen)
                return
            source = self._find(op.operands[0], inside)
            if op.target == GETITEM:
                if source.name not in inside or (taken := member(op, source, at)) is None:
                    break
                op, at = self._find(source.operands[0], inside), taken
                continue
            shape = source.value.shape if isinstance(source.value, Tensor) else ()
            moved = move(op, at, shape)
            if moved is None:
                break
            op, at = source, moved
        yield (op, at), chosen

    def _joined(self, op: Operation, at: Points, inside: dict[str, Operation], chosen: Any) -> Any:
        pieces = op.args[0]
        rank = len(op.tensor.shape)
        dim = (op.args[1] if len(op.args) > 1 else dict(op.kwargs).get("dim", 0)) % rank
        begin = 0
        for ref in pieces:
            piece = self._find(ref.name, inside)
            extent = piece.tensor.shape[dim]
            mine = np.flatnonzero((at[dim + 1] >= begin) & (at[dim + 1] < begin + extent))
            if len(mine):
                within = at[:, mine].copy()
                within[dim + 1] -= begin
                yield from self._moved(piece, within, inside, chosen[mine])
            begin += extent

    def _find(self, name: str, inside: dict[str, Operation]) -> Operation:
        return self._after(name) if inside is self.part.after else self._before(name)


def type_of(value: Any) -> Any:
    """Return the type of a result."""
    if isinstance(value, Tensor):
        return value.dtype
    return tuple(map(type_of, value)) if isinstance(value, tuple) else None


def _constant(op: Operation) -> Any:
    """Return the value that all elements have, with its type; ``None`` if they may differ."""
    if op.target in ("aten.full.default", "aten.full_like.default"):
        return (op.args[1], op.tensor.dtype)
    kind = op.target.split(".")[1] if op.target.startswith(aten) else ""
    if kind in ("zeros", "zeros_like", "new_zeros"):
        return (0, op.tensor.dtype)
    if kind in ("ones", "ones_like", "new_ones"):
        return (1, op.tensor.dtype)
    return None


def _drawn(op: Operation, at: Points) -> Any:
    """Return what decides the elements of a draw: its sizes and mode, its seed, and the indices."""
    if op.target == "prims.inductor_random.default":
        size, seed, mode = op.args
        return (size, mode, op.kwargs), seed.name, at[1:]
    if op.target == "domino_compile.random_slice.default":
        size, seed, mode, dim, start, length = op.args
        moved = at[1:].copy()
        moved[dim] += start
        inside = op.tensor.shape[dim] == length and start >= 0 and start + length <= size[dim]
        return ((size, mode, ()), seed.name, moved) if inside else None
    if op.target == "prims.iota.default":
        named = dict(op.kwargs)
        return None if "start" not in named else (None, None, named["start"] + at[1:])
    return None


# -- the operands' elements that are compared ----------------------------------------------


def _aligned(
    one: Read, other: Read, operand: Tensor, source: Tensor, at: Points, where: Points, follow: Any
) -> tuple[Points, Points] | None:
    """Return the elements of both operands that are read for elements of both results."""
    if not one.dims:
        return _expand_to(at, operand.shape), _expand_to(where, source.shape)
    count = CORE if None in one.dims or one.ranks != "own" else 1
    at, where = np.repeat(at, count, axis=1), np.repeat(where, count, axis=1)
    mine, theirs = [at[0]], [where[0]]
    if one.ranks == "scattered":
        at, where = at.copy(), where.copy()
        at[1] += at[0] * (operand.shape[0] // follow.ranks)
        where[1] += where[0] * (source.shape[0] // follow.ranks)
    if one.ranks != "own":
        mine[0] = theirs[0] = follow.random.integers(0, follow.ranks, at.shape[1])
    for dim, aligned in enumerate(one.dims):
        if aligned is not None:
            mine.append(at[aligned + 1])
            theirs.append(where[aligned + 1])
            continue
        if operand.shape[dim] != source.shape[dim] or operand.shape[dim] == 0:
            return None
        core = follow.random.integers(0, operand.shape[dim], at.shape[1])
        core[::CORE], core[1::CORE] = 0, operand.shape[dim] - 1
        mine.append(core)
        theirs.append(core)
    return np.stack(mine), np.stack(theirs)


def _row_of(operand: Tensor, dim: int | None, at: Points) -> Points:
    """Return rank and row of elements of a result; the row is 0 in an operand that has but one."""
    row = at[:2].copy()
    if dim is not None and operand.shape[dim] == 1:
        row[1] = 0
    return row


def _expand_to(at: Points, shape: tuple[int, ...]) -> Points:
    rows = at[at.shape[0] - len(shape) :].copy() if shape else at[:0]
    for place, extent in enumerate(shape):
        if extent == 1:
            rows[place] = 0
    return np.concatenate([at[:1], rows])
