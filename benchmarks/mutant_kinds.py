"""Faults of a rewriting, by kind: each changes the graph after a pass, or what the pass claims.

``FAULTS`` has the kinds. A fault is a function of an ``Edit`` that changes it in one place, chosen
at random, and says whether there was such a place. ``HARMLESS`` has a change for each kind that
looks like the fault and changes no value.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

from domino_compile.verify.claims import Piece, Whole, Witness
from domino_compile.verify.plain import (
    INPUT,
    Graph,
    Operation,
    Ref,
    Tensor,
    is_launch,
    is_wait,
    replaced,
)

ADD, MUL, CAT, CLONE = (
    "aten.add.Tensor",
    "aten.mul.Tensor",
    "aten.cat.default",
    "aten.clone.default",
)
SLICE, DRAW = "aten.slice.Tensor", "domino_compile.random_slice.default"
AT_LAUNCH = "_c10d_functional.all_reduce.default"
WAIT = "_c10d_functional.wait_tensor.default"


class Edit:
    """A graph after a pass and its claims, to be changed.

    Args:
        before: the graph before the pass.
        after: the graph after it.
        witness: what it claims.
        seed: decides where the change is made.
    """

    def __init__(self, before: Graph, after: Graph, witness: Witness, seed: int) -> None:
        self.before = before
        self.ops = dict(after.operations)
        self.outputs = list(after.outputs)
        self.inner = after.inner
        self.claims = {name: list(claims) for name, claims in witness.claims.items()}
        self.random = random.Random(seed)
        self.old = set(before.operations)

    def graph(self) -> Graph:
        """Return the graph, its operations behind their operands.

        Raises:
            ValueError: it has a circle.
        """
        placed: dict[str, Operation] = {}
        open_: set[str] = set()

        def place(name: str) -> None:
            stack = [name]
            while stack:
                top = stack[-1]
                missing = [x for x in self.ops[top].operands if x not in placed]
                if not missing:
                    placed[stack.pop()] = self.ops[top]
                    open_.discard(top)
                elif top in open_ and any(x in open_ for x in missing):
                    raise ValueError("a circle")
                else:
                    open_.add(top)
                    stack.extend(x for x in missing if x in self.ops)

        for name in self.ops:
            if name not in placed:
                place(name)
        return Graph(placed, tuple(self.outputs), self.inner)

    def witness(self) -> Witness:
        """Return the claims."""
        return Witness({name: list(claims) for name, claims in self.claims.items()})

    # -- finding places ----------------------------------------------------------------------

    def some(self, found: Any) -> Any:
        """Return one of some places; ``None`` if there is none."""
        found = list(found)
        return self.random.choice(found) if found else None

    def calls(self, *targets: str) -> list[Operation]:
        """Return the calls of some operations."""
        return [op for op in self.ops.values() if op.target in targets]

    def users(self, name: str) -> list[Operation]:
        """Return the operations that read a value."""
        return [op for op in self.ops.values() if name in op.operands]

    def pieces(self) -> Iterator[list[Piece]]:
        """Yield the pieces of each value, of which there are several of one shape."""
        for claims in self.claims.values():
            groups: dict[tuple[int, int], list[Piece]] = {}
            for claim in claims:
                if isinstance(claim, Piece) and claim.node in self.ops and self.users(claim.node):
                    groups.setdefault((claim.dim, claim.outer), []).append(claim)
            for group in groups.values():
                if len(group) > 1 and len({self.ops[c.node].value for c in group}) == 1:
                    yield group

    def sums(self) -> list[Operation]:
        """Return the sums of slices' summands."""
        made = {c.node for cs in self.claims.values() for c in cs if isinstance(c, Whole)}
        return [op for op in self.calls(ADD) if op.name in made and len(set(op.operands)) == 2]

    def launches(self) -> list[Operation]:
        """Return the all-reduces."""
        return self.calls(AT_LAUNCH)

    # -- changing ----------------------------------------------------------------------------

    def use(self, user: Operation, old: str, new: str) -> None:
        """Let an operation read another value."""
        op = self.ops[user.name]
        args, kwargs = replaced((op.args, op.kwargs), lambda r: Ref(new) if r.name == old else r)
        self.ops[user.name] = replace(op, args=args, kwargs=kwargs)

    def use_everywhere(self, old: str, new: str, but: str = "") -> None:
        """Let all operations, and the results, read another value."""
        for user in self.users(old):
            if user.name != but:
                self.use(user, old, new)
        self.outputs = [new if name == old else name for name in self.outputs]

    def put(self, target: str, *args: Any, like: Operation, value: Any = None) -> str:
        """Add an operation, and return its name."""
        name = f"mutant_{len(self.ops)}"
        self.ops[name] = Operation(name, target, args, (), value or like.value)
        return name

    def make(self, op: Operation, target: str, *args: Any) -> None:
        """Replace an operation by another of the same name."""
        self.ops[op.name] = replace(op, target=target, args=args, kwargs=())


Change: TypeAlias = Callable[[Edit], bool]
FAULTS: dict[str, Change] = {}
HARMLESS: dict[str, Change] = {}


def fault(name: str) -> Callable[[Change], Change]:
    """Register a fault."""

    def add(change: Change) -> Change:
        FAULTS[name] = change
        return change

    return add


def harmless(name: str) -> Callable[[Change], Change]:
    """Register a change that only looks like a fault."""

    def add(change: Change) -> Change:
        HARMLESS[name] = change
        return change

    return add


def _two_pieces(edit: Edit) -> tuple[str, str] | None:
    group = edit.some(edit.pieces())
    if group is None:
        return None
    one, other = edit.random.sample(group, 2)
    return one.node, other.node


@fault("a slice dropped, another read twice")
def dropped(edit: Edit) -> bool:
    """One user of a slice reads another slice."""
    pair = _two_pieces(edit)
    user = edit.some(edit.users(pair[0])) if pair else None
    if pair is None or user is None or pair[1] in user.operands:
        return False
    edit.use(user, *pair)
    return True


@harmless("a slice dropped, another read twice")
def copied(edit: Edit) -> bool:
    """One user of a slice reads a copy of it."""
    pair = _two_pieces(edit)
    if pair is None:
        return False
    edit.use(edit.some(edit.users(pair[0])), pair[0], edit.put(
        CLONE, Ref(pair[0]), like=edit.ops[pair[0]]))  # fmt: skip
    return True


@fault("two slices swapped")
def swapped(edit: Edit) -> bool:
    """Everything that reads one slice reads the other, and the other way round."""
    pair = _two_pieces(edit)
    if pair is None:
        return False
    users = [edit.users(name) for name in pair]
    for own, old, new in zip(users, pair, reversed(pair), strict=True):
        for user in own:
            if not (pair[0] in user.operands and pair[1] in user.operands):
                edit.use(user, old, new)
    return any(pair[0] not in u.operands or pair[1] not in u.operands for x in users for u in x)


@harmless("two slices swapped")
def commuted(edit: Edit) -> bool:
    """A sum in the other order."""
    op = edit.some(x for x in edit.calls(ADD) if len(x.operands) == 2 and x.name not in edit.old)
    if op is None or edit.ops[op.operands[0]].value != edit.ops[op.operands[1]].value:
        return False
    edit.make(op, ADD, op.args[1], op.args[0])
    return True


def _join(edit: Edit) -> Operation | None:
    joins = [op for op in edit.calls(CAT) if op.name not in edit.old and len(set(op.args[0])) > 1]
    return edit.some(joins)


@fault("a join in another order")
def reversed_join(edit: Edit) -> bool:
    """The last slice comes first."""
    op = _join(edit)
    if op is None:
        return False
    edit.make(op, CAT, tuple(reversed(op.args[0])), *op.args[1:])
    return True


@harmless("a join in another order")
def nested_join(edit: Edit) -> bool:
    """The slices are joined one by one."""
    op = _join(edit)
    if op is None:
        return False
    first = edit.put(CAT, op.args[0][:1], *op.args[1:], like=edit.ops[op.args[0][0].name])
    edit.make(op, CAT, (Ref(first), *op.args[0][1:]), *op.args[1:])
    return True


@fault("a join along another dimension")
def crossed_join(edit: Edit) -> bool:
    """Joined along another dimension, and seen in the right shape."""
    op = _join(edit)
    if (
        op is None
        or len(op.tensor.shape) < 2
        or len({edit.ops[r.name].value for r in op.args[0]}) > 1
    ):
        return False
    dim = op.args[1] if len(op.args) > 1 else 0
    shape = list(edit.ops[op.args[0][0].name].tensor.shape)
    other = edit.random.choice([d for d in range(len(shape)) if d > dim] or [0])
    if other == dim or all(n == 1 for n in shape[dim:other]):
        return False
    shape[other] *= len(op.args[0])
    value = Tensor(tuple(shape), op.tensor.dtype)
    joined = edit.put(CAT, op.args[0], other, like=op, value=value)
    edit.make(op, "aten.reshape.default", Ref(joined), op.tensor.shape)
    return True


@harmless("a join along another dimension")
def counted_from_the_end(edit: Edit) -> bool:
    """The dimension is counted from the end."""
    op = _join(edit)
    if op is None:
        return False
    dim = op.args[1] if len(op.args) > 1 else 0
    edit.make(op, CAT, op.args[0], dim - len(op.tensor.shape))
    return True


@fault("a slice missing from a join")
def missing(edit: Edit) -> bool:
    """One slice is joined twice, in place of another."""
    op = _join(edit)
    if op is None:
        return False
    first, *rest = op.args[0]
    if edit.ops[first.name].value != edit.ops[rest[-1].name].value:
        return False
    edit.make(op, CAT, (first, *rest[:-1], first), *op.args[1:])
    return True


@harmless("a slice missing from a join")
def cut_and_joined(edit: Edit) -> bool:
    """A slice is cut in two and joined again."""
    op = _join(edit)
    dim = op.args[1] if op is not None and len(op.args) > 1 else 0
    if op is None:
        return False
    last = edit.ops[op.args[0][-1].name]
    rows = last.tensor.shape[dim]
    if rows < 2:
        return False
    parts = []
    for start, end in ((0, 1), (1, rows)):
        shape = list(last.tensor.shape)
        shape[dim] = end - start
        value = Tensor(tuple(shape), last.tensor.dtype)
        parts.append(Ref(edit.put(SLICE, Ref(last.name), dim, start, end, like=last, value=value)))
    edit.make(op, CAT, (*op.args[0][:-1], *parts), *op.args[1:])
    return True


def _cut(edit: Edit) -> Operation | None:
    claimed = {c.node for claims in edit.claims.values() for c in claims}
    return edit.some(op for op in edit.calls(SLICE) if op.name in claimed and edit.users(op.name))


@fault("extents off by one")
def shifted(edit: Edit) -> bool:
    """A slice begins and ends one row too late or too early."""
    op = _cut(edit)
    if op is None:
        return False
    x, dim, start, end = op.args[:4]
    extent = edit.ops[x.name].tensor.shape[dim]
    by = -1 if start > 0 else 1
    if end + by > extent:
        return False
    edit.make(op, SLICE, x, dim, start + by, end + by)
    return True


@harmless("extents off by one")
def clamped(edit: Edit) -> bool:
    """The last slice ends behind the last row."""
    op = _cut(edit)
    if op is None or op.args[3] != edit.ops[op.args[0].name].tensor.shape[op.args[1]]:
        return False
    edit.make(op, SLICE, *op.args[:3], op.args[3] + 7)
    return True


@fault("a partial sum left out")
def left_out(edit: Edit) -> bool:
    """Only one slice's summand is there."""
    op = edit.some(edit.sums())
    if op is None:
        return False
    edit.make(op, CLONE, edit.random.choice(op.args[:2]))
    return True


@harmless("a partial sum left out")
def zero_added(edit: Edit) -> bool:
    """Zeros are added."""
    op = edit.some(edit.sums())
    if op is None:
        return False
    own = edit.put(ADD, *op.args, like=op)
    zeros = edit.put("aten.full.default", op.tensor.shape, 0, like=op)
    edit.make(op, ADD, Ref(own), Ref(zeros))
    return True


@fault("a partial sum added twice")
def twice(edit: Edit) -> bool:
    """One slice's summand is added in place of another."""
    op = edit.some(edit.sums())
    if op is None:
        return False
    term = edit.random.choice(op.args[:2])
    edit.make(op, ADD, term, term)
    return True


@harmless("a partial sum added twice")
def added_and_taken(edit: Edit) -> bool:
    """A summand is added twice and subtracted once."""
    op = edit.some(edit.sums())
    if op is None:
        return False
    both = edit.put(ADD, *op.args[:2], like=op)
    more = edit.put(ADD, Ref(both), op.args[0], like=op)
    edit.make(op, "aten.sub.Tensor", Ref(more), op.args[0])
    return True


@fault("a mean for a sum")
def mean(edit: Edit) -> bool:
    """The slices' summands are averaged."""
    op = edit.some(edit.sums())
    if op is None:
        return False
    edit.make(op, MUL, Ref(edit.put(ADD, *op.args, like=op)), 0.5)
    return True


@harmless("a mean for a sum")
def twice_the_mean(edit: Edit) -> bool:
    """Twice the mean is the sum."""
    op = edit.some(edit.sums())
    if op is None:
        return False
    half = edit.put(MUL, Ref(edit.put(ADD, *op.args, like=op)), 0.5, like=op)
    edit.make(op, MUL, Ref(half), 2)
    return True


@fault("an operation that couples the batch, done by each slice")
def coupled(edit: Edit) -> bool:
    """What needs all rows is done with those of each slice."""
    found = []
    for op in edit.ops.values():
        if op.target in ("aten.cumsum.default", "prims.rev.default") and op.name in edit.old:
            source = edit.ops[op.operands[0]]
            if source.target == CAT and op.value == source.value:
                found.append((op, source))
    chosen = edit.some(found)
    if chosen is None:
        return False
    op, join = chosen
    parts = []
    for ref in join.args[0]:
        args = replaced(op.args, lambda r, ref=ref: ref if r.name == join.name else r)
        parts.append(Ref(edit.put(op.target, *args, like=edit.ops[ref.name])))
    edit.make(op, CAT, tuple(parts), *join.args[1:])
    return True


@harmless("an operation that couples the batch, done by each slice")
def repeated(edit: Edit) -> bool:
    """A pure operation is done twice, once for one user."""
    pair = _two_pieces(edit)
    op = edit.ops[pair[0]] if pair else None
    if op is None or is_launch(op) or is_wait(op):
        return False
    user = edit.some(edit.users(op.name))
    edit.use(user, op.name, edit.put(op.target, *op.args, like=op))
    made = f"mutant_{len(edit.ops) - 1}"
    edit.ops[made] = replace(edit.ops[made], kwargs=op.kwargs)
    return True


@fault("a mask's offset wrong")
def other_offset(edit: Edit) -> bool:
    """A slice draws the numbers of other rows."""
    op = edit.some(edit.calls(DRAW))
    if op is None:
        return False
    size, seed, mode, dim, start, length = op.args
    start = start - length if start >= length else start + 1
    if start + length > size[dim]:
        return False
    edit.make(op, DRAW, size, seed, mode, dim, start, length)
    return True


@harmless("a mask's offset wrong")
def drawn_whole(edit: Edit) -> bool:
    """All numbers are drawn, and the slice's rows are taken."""
    op = edit.some(edit.calls(DRAW))
    if op is None:
        return False
    size, seed, mode, dim, start, length = op.args
    value = Tensor(size, op.tensor.dtype)
    whole = edit.put("prims.inductor_random.default", size, seed, mode, like=op, value=value)
    edit.make(op, SLICE, Ref(whole), dim, start, start + length)
    return True


@fault("a mask of another seed")
def other_seed(edit: Edit) -> bool:
    """A slice draws from another generator."""
    draws = edit.calls(DRAW)
    op = edit.some(draws)
    seed = edit.some({x.args[1] for x in draws} - {op.args[1]}) if op is not None else None
    if op is None or seed is None:
        return False
    edit.make(op, DRAW, op.args[0], seed, *op.args[2:])
    return True


@harmless("a mask of another seed")
def seed_copied(edit: Edit) -> bool:
    """The seed is copied."""
    op = edit.some(edit.calls(DRAW))
    if op is None:
        return False
    seed = edit.put(CLONE, op.args[1], like=edit.ops[op.args[1].name])
    edit.make(op, DRAW, op.args[0], Ref(seed), *op.args[2:])
    return True


@fault("a collective dropped")
def lost(edit: Edit) -> bool:
    """Its payload is used in place of its result."""
    wait = edit.some(x for x in edit.calls(WAIT) if edit.ops[x.operands[0]].target == AT_LAUNCH)
    if wait is None:
        return False
    launch = edit.ops.pop(wait.operands[0])
    edit.make(wait, CLONE, launch.args[0])
    return True


@harmless("a collective dropped")
def in_halves(edit: Edit) -> bool:
    """A collective is done in two parts that nobody claims."""
    wait = edit.some(x for x in edit.calls(WAIT) if edit.ops[x.operands[0]].target == AT_LAUNCH)
    if wait is None or not wait.tensor.shape or wait.tensor.shape[0] < 2:
        return False
    launch = edit.ops.pop(wait.operands[0])
    parts = []
    for start, end in ((0, 1), (1, wait.tensor.shape[0])):
        value = Tensor((end - start, *wait.tensor.shape[1:]), wait.tensor.dtype)
        part = edit.put(SLICE, launch.args[0], 0, start, end, like=wait, value=value)
        sent = edit.put(AT_LAUNCH, Ref(part), *launch.args[1:], like=wait, value=value)
        parts.append(Ref(edit.put(WAIT, Ref(sent), like=wait, value=value)))
    edit.make(wait, CAT, tuple(parts), 0)
    return True


def wait_again(edit: Edit, launch: Operation | None) -> bool:
    """Wait for a collective once more."""
    if launch is None:
        return False
    edit.put(WAIT, Ref(launch.name), like=launch)
    return True


@fault("a collective doubled")
def doubled(edit: Edit) -> bool:
    """It is done once more, for nobody."""
    launch = edit.some(edit.launches())
    if launch is None:
        return False
    edit.put(WAIT, Ref(edit.put(launch.target, *launch.args, like=launch)), like=launch)
    return True


@harmless("a collective doubled")
def waited_twice(edit: Edit) -> bool:
    """It is waited for once more."""
    return wait_again(edit, edit.some(edit.launches()))


@fault("a collective of a collective's result")
def again(edit: Edit) -> bool:
    """The result is reduced once more."""
    wait = edit.some(x for x in edit.calls(WAIT) if edit.ops[x.operands[0]].target == AT_LAUNCH)
    if wait is None:
        return False
    launch = edit.ops[wait.operands[0]]
    first = edit.put(WAIT, Ref(launch.name), like=wait)
    edit.make(wait, WAIT, Ref(edit.put(AT_LAUNCH, Ref(first), *launch.args[1:], like=wait)))
    return True


@harmless("a collective of a collective's result")
def waited_again(edit: Edit) -> bool:
    """The wait is waited for."""
    wait = edit.some(edit.calls(WAIT))
    if wait is None:
        return False
    edit.make(wait, WAIT, Ref(edit.put(WAIT, *wait.args, like=wait)))
    return True


def _argument(edit: Edit, place: int, value: str) -> bool:
    launch = edit.some(edit.launches())
    if launch is None or launch.args[place] == value:
        return False
    args = (*launch.args[:place], value, *launch.args[place + 1 :])
    edit.make(launch, AT_LAUNCH, *args)
    return True


@fault("a collective of another group")
def other_group(edit: Edit) -> bool:
    """Other ranks take part."""
    return _argument(edit, 2, "another group")


@harmless("a collective of another group")
def payload_copied(edit: Edit) -> bool:
    """The payload is copied."""
    launch = edit.some(edit.launches())
    if launch is None:
        return False
    copy = edit.put(CLONE, launch.args[0], like=launch)
    edit.make(launch, AT_LAUNCH, Ref(copy), *launch.args[1:])
    return True


@fault("another reduction")
def other_reduction(edit: Edit) -> bool:
    """The largest, or the mean, in place of the sum."""
    return _argument(edit, 1, edit.random.choice(("max", "avg", "min", "product")))


@harmless("another reduction")
def mean_times_ranks(edit: Edit) -> bool:
    """The mean, times the number of ranks."""
    wait = edit.some(x for x in edit.calls(WAIT) if edit.ops[x.operands[0]].target == AT_LAUNCH)
    if wait is None:
        return False
    launch = edit.ops[wait.operands[0]]
    edit.make(launch, AT_LAUNCH, launch.args[0], "avg", *launch.args[2:])
    edit.make(wait, MUL, Ref(edit.put(WAIT, Ref(launch.name), like=wait)), 3)
    return True


@fault("a merge of what may not be merged")
def merged(edit: Edit) -> bool:
    """Two slices' collectives become one of their sum."""
    waits = {}
    for wait in edit.calls(WAIT):
        if edit.ops[wait.operands[0]].target == AT_LAUNCH:
            waits.setdefault(wait.value, []).append(wait)
    pairs = [group for group in waits.values() if len(group) > 1]
    group = edit.some(pairs)
    if group is None:
        return False
    one, other = edit.random.sample(group, 2)
    launches = [edit.ops[x.operands[0]] for x in (one, other)]
    total = edit.put(ADD, *(launch.args[0] for launch in launches), like=one)
    edit.make(launches[0], AT_LAUNCH, Ref(total), *launches[0].args[1:])
    edit.use_everywhere(other.name, one.name)
    for gone in (other.name, launches[1].name):
        edit.ops.pop(gone)
    return True


@harmless("a merge of what may not be merged")
def summed_in_float64(edit: Edit) -> bool:
    """A collective's payload is added to zeros first."""
    launch = edit.some(edit.launches())
    if launch is None:
        return False
    zeros = edit.put("aten.full.default", launch.tensor.shape, 0, like=launch)
    total = edit.put(ADD, launch.args[0], Ref(zeros), like=launch)
    edit.make(launch, AT_LAUNCH, Ref(total), *launch.args[1:])
    return True


@fault("a use before its wait")
def not_waited(edit: Edit) -> bool:
    """Something reads a collective's result without waiting."""
    wait = edit.some(x for x in edit.calls(WAIT) if edit.users(x.name))
    if wait is None:
        return False
    edit.use(edit.some(edit.users(wait.name)), wait.name, wait.operands[0])
    return True


@harmless("a use before its wait")
def seen_before_waiting(edit: Edit) -> bool:
    """The result is seen in its own shape before the wait."""
    wait = edit.some(edit.calls(WAIT))
    if wait is None:
        return False
    view = edit.put("aten.view.default", *wait.args, wait.tensor.shape, like=wait)
    edit.make(wait, WAIT, Ref(view))
    return True


@fault("a wait before its launch")
def waits_for_nothing(edit: Edit) -> bool:
    """The wait is for the payload; the collective is launched for nobody."""
    wait = edit.some(x for x in edit.calls(WAIT) if edit.ops[x.operands[0]].target == AT_LAUNCH)
    if wait is None:
        return False
    edit.make(wait, WAIT, edit.ops[wait.operands[0]].args[0])
    return True


@harmless("a wait before its launch")
def reordered(edit: Edit) -> bool:
    """The last operation moves up to its operands."""
    last = list(edit.ops)[-1]
    moved = edit.ops.pop(last)
    edit.ops = {last: moved, **edit.ops}
    return True


def _backward(edit: Edit) -> set[str]:
    """Return the values that depend on a gradient of an output."""
    found: set[str] = set()
    for op in edit.ops.values():
        if op.name.startswith("tangents") or any(x in found for x in op.operands):
            found.add(op.name)
    return found


@fault("a saved or recomputed value of the wrong slice")
def wrong_recomputation(edit: Edit) -> bool:
    """A gradient is computed from another slice's activation."""
    backward = _backward(edit)
    found = []
    for group in edit.pieces():
        for piece in group:
            if piece.node not in backward:
                users = [u for u in edit.users(piece.node) if u.name in backward]
                found += [(user, piece, group) for user in users]
    chosen = edit.some(found)
    if chosen is None:
        return False
    user, piece, group = chosen
    other = edit.some(c for c in group if c != piece and c.node not in user.operands)
    if other is None:
        return False
    edit.use(user, piece.node, other.node)
    return True


HARMLESS["a saved or recomputed value of the wrong slice"] = repeated


@fault("a gradient cut off")
def cut_off(edit: Edit) -> bool:
    """A gradient's sum lacks a term, or a result is zero."""
    backward = _backward(edit)
    adds = [
        op for op in edit.calls(ADD)
        if op.name in backward and len(set(op.operands)) == 2
        and all(edit.ops[x].value == op.value and x in backward for x in op.operands)
    ]  # fmt: skip
    op = edit.some(adds)
    if op is not None and edit.random.random() < 0.6:
        edit.make(op, CLONE, edit.random.choice(op.args[:2]))
        return True
    place = edit.some(i for i, name in enumerate(edit.outputs) if name in backward)
    if place is None:
        return False
    like = edit.ops[edit.outputs[place]]
    edit.outputs[place] = edit.put("aten.full.default", like.tensor.shape, 0, like=like)
    return True


@harmless("a gradient cut off")
def result_copied(edit: Edit) -> bool:
    """A result is copied."""
    place = edit.some(i for i, name in enumerate(edit.outputs) if isinstance(name, str))
    name = edit.outputs[place]
    edit.outputs[place] = edit.put(CLONE, Ref(name), like=edit.ops[name])
    return True


@fault("another result")
def other_result(edit: Edit) -> bool:
    """Two results of one shape are exchanged."""
    named = [(i, name) for i, name in enumerate(edit.outputs) if isinstance(name, str)]
    pairs = [
        (i, j)
        for i, one in named
        for j, other in named
        if i < j and one != other and edit.ops[one].value == edit.ops[other].value
    ]
    pair = edit.some(pairs)
    if pair is None:
        return False
    i, j = pair
    edit.outputs[i], edit.outputs[j] = edit.outputs[j], edit.outputs[i]
    return True


HARMLESS["another result"] = result_copied


@fault("operands exchanged")
def exchanged(edit: Edit) -> bool:
    """A difference, quotient or product the wrong way round."""
    found = [
        op for op in edit.calls("aten.sub.Tensor", "aten.div.Tensor", "aten.mm.default",
                                "aten.bmm.default")
        if len(op.operands) == 2 and op.operands[0] != op.operands[1]
        and edit.ops[op.operands[0]].value == edit.ops[op.operands[1]].value
        and op.name not in edit.old
    ]  # fmt: skip
    op = edit.some(found)
    if op is None:
        return False
    edit.make(op, op.target, op.args[1], op.args[0], *op.args[2:])
    return True


@harmless("operands exchanged")
def negated(edit: Edit) -> bool:
    """A difference is the sum with the negative."""
    op = edit.some(x for x in edit.calls("aten.sub.Tensor") if len(x.operands) == 2 == len(x.args))
    if op is None:
        return False
    edit.make(op, ADD, op.args[0], Ref(edit.put("aten.neg.default", op.args[1],
              like=edit.ops[op.operands[1]])))  # fmt: skip
    return True


@fault("another constant")
def other_constant(edit: Edit) -> bool:
    """A number in the operation of one slice is another one."""
    found = [
        (op, i)
        for op in edit.ops.values()
        if op.name not in edit.old and op.target in (MUL, ADD, "aten.div.Tensor")
        for i, x in enumerate(op.args)
        if isinstance(x, (int, float)) and not isinstance(x, bool) and x
    ]  # fmt: skip
    chosen = edit.some(found)
    if chosen is None:
        return False
    op, i = chosen
    number = op.args[i] + 1 if isinstance(op.args[i], int) else op.args[i] * 1.01
    edit.make(op, op.target, *op.args[:i], number, *op.args[i + 1 :])
    return True


@harmless("another constant")
def divided(edit: Edit) -> bool:
    """Times a number in two steps."""
    op = edit.some(x for x in edit.calls(MUL) if len(x.operands) == 1 and x.name not in edit.old)
    if op is None:
        return False
    half = edit.put(MUL, op.args[0], op.args[1] / 2, like=op)
    edit.make(op, MUL, Ref(half), 2)
    return True


@fault("another parameter")
def other_parameter(edit: Edit) -> bool:
    """A slice is multiplied by another layer's weight."""
    inputs = [op for op in edit.ops.values() if op.target == INPUT and isinstance(op.value, Tensor)]
    found = [
        (user, one.name, other.name)
        for one in inputs
        for user in edit.users(one.name)
        for other in inputs
        if other.name != one.name and other.value == one.value and other.name not in user.operands
    ]
    chosen = edit.some(found)
    if chosen is None:
        return False
    edit.use(*chosen)
    return True


@harmless("another parameter")
def parameter_copied(edit: Edit) -> bool:
    """A parameter is copied."""
    op = edit.some(x for x in edit.ops.values() if x.target == INPUT and edit.users(x.name))
    edit.use(edit.some(edit.users(op.name)), op.name, edit.put(CLONE, Ref(op.name), like=op))
    return True


@fault("a claim about another slice")
def false_claim(edit: Edit) -> bool:
    """The graph is right, but one slice is claimed to be another one."""
    group = edit.some(edit.pieces())
    if group is None:
        return False
    one, other = edit.random.sample(group, 2)
    for claims in edit.claims.values():
        for place, claim in enumerate(claims):
            if claim in (one, other):
                claims[place] = replace(claim, node=(other if claim == one else one).node)
    return True


@harmless("a claim about another slice")
def claim_left_out(edit: Edit) -> bool:
    """Nothing is claimed about one value."""
    names = [
        name for name, claims in edit.claims.items()
        if not any(is_launch(edit.ops[c.node]) or is_wait(edit.ops[c.node])
                   for c in claims if c.node in edit.ops)
    ]  # fmt: skip
    edit.claims.pop(edit.some(names))
    return True


@fault("rows in another order")
def turned(edit: Edit) -> bool:
    """A slice's rows are read backwards."""
    group = edit.some(edit.pieces())
    if group is None:
        return False
    piece: Any = edit.some(group)
    op = edit.ops[piece.node]
    if op.tensor.shape[piece.dim] < 2:
        return False
    user = edit.some(edit.users(op.name))
    edit.use(user, op.name, edit.put("aten.flip.default", Ref(op.name), (piece.dim,), like=op))
    return True


@harmless("rows in another order")
def turned_twice(edit: Edit) -> bool:
    """A slice's rows are read backwards, and that backwards."""
    group = edit.some(edit.pieces())
    piece: Any = edit.some(group) if group else None
    if piece is None or is_launch(edit.ops[piece.node]):
        return False
    op = edit.ops[piece.node]
    once = edit.put("aten.flip.default", Ref(op.name), (piece.dim,), like=op)
    back = edit.put("aten.flip.default", Ref(once), (piece.dim,), like=op)
    edit.use(edit.some(u for u in edit.users(op.name) if u.name != once), op.name, back)
    return True
