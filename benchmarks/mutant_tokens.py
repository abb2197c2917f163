"""Faults in the order of tokens, and in what ranks exchange of them; see ``mutant_kinds``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.mutant_kinds import CAT, CLONE, SLICE, WAIT, Edit, fault, harmless, wait_again
from domino_compile.verify.plain import (
    ARRANGE,
    EXCHANGE,
    GETITEM,
    OWN_PART,
    Operation,
    Ref,
    Tensor,
    is_wait,
)

PERMUTE, RESHAPE, FLIP = "aten.permute.default", "aten.reshape.default", "aten.flip.default"
GATHER = "_c10d_functional.all_gather_into_tensor.default"
#: What the names of operations hold that the pass ``relayout`` has made.
RELAID = "relaid"


def _shaped(op: Operation, *shape: int) -> Tensor:
    return Tensor(shape, op.tensor.dtype)


def _swapped(edit: Edit, name: str, dim: int, outer: int, inner: int) -> str:
    """Swap the outer two of three nested blocks of a dimension; return the result."""
    op = edit.ops[name]
    shape = op.tensor.shape
    head, tail = shape[:dim], (shape[dim] // (outer * inner), *shape[dim + 1 :])
    dims = [*range(len(shape) + 2)]
    dims[dim], dims[dim + 1] = dim + 1, dim
    apart, moved = _shaped(op, *head, outer, inner, *tail), _shaped(op, *head, inner, outer, *tail)
    split = edit.put(RESHAPE, Ref(name), apart.shape, like=op, value=apart)
    turned = edit.put(PERMUTE, Ref(split), tuple(dims), like=op, value=moved)
    copied = edit.put(CLONE, Ref(turned), like=op, value=moved)
    return edit.put(RESHAPE, Ref(copied), shape, like=op)


def _operand(edit: Edit) -> tuple[Operation, str, int, int, int] | None:
    """Return an operation of ``relayout``, one of its operands, and blocks of a dimension of it."""
    found = [
        (user, name, dim, 2, inner)
        for user in edit.ops.values()
        if RELAID in user.name and len(set(user.operands)) > 1
        for name in set(user.operands)
        if isinstance(value := edit.ops[name].value, Tensor)
        for dim, extent in enumerate(value.shape)
        for inner in (2, 3, 4)
        if extent % (2 * inner) == 0
    ]
    chosen: tuple[Operation, str, int, int, int] | None = edit.some(sorted(found, key=str))
    return chosen


@fault("one operand's tokens in another order")
def one_in_another_order(edit: Edit) -> bool:
    """The order of one operand is changed, and that of the others is not."""
    chosen = _operand(edit)
    if chosen is None:
        return False
    user, name, *blocks = chosen
    edit.use(user, name, _swapped(edit, name, *blocks))
    return True


@harmless("one operand's tokens in another order")
def there_and_back(edit: Edit) -> bool:
    """The order of one operand is changed, and changed back."""
    chosen = _operand(edit)
    if chosen is None:
        return False
    user, name, dim, outer, inner = chosen
    once = _swapped(edit, name, dim, outer, inner)
    edit.use(user, name, _swapped(edit, once, dim, inner, outer))
    return True


def _changes_order(edit: Edit) -> Iterator[Operation]:
    """Yield the permutations that put tokens into row order, or back."""
    for op in edit.calls(PERMUTE):
        if RELAID in op.name and tuple(op.args[1]) != (1, 0):
            yield op


@fault("tokens as they arrive where rows are needed")
def left_as_they_arrive(edit: Edit) -> bool:
    """Tokens are not put into row order, or not back."""
    op = edit.some(_changes_order(edit))
    if op is None:
        return False
    edit.make(op, RESHAPE, op.args[0], op.tensor.shape)
    return True


@harmless("tokens as they arrive where rows are needed")
def permuted_thrice(edit: Edit) -> bool:
    """Tokens are put into row order, back, and into row order again."""
    op = edit.some(_changes_order(edit))
    if op is None or tuple(op.args[1]) != (1, 0, *range(2, len(op.args[1]))):
        return False
    first = edit.put(PERMUTE, *op.args, like=op)
    back = edit.put(PERMUTE, Ref(first), op.args[1], like=edit.ops[op.operands[0]])
    edit.make(op, PERMUTE, Ref(back), op.args[1])
    return True


def _apart(edit: Edit) -> tuple[Operation, Operation] | None:
    """Return a view that takes ranks and rows apart, and the permutation behind it."""
    pairs = [(edit.ops[op.operands[0]], op) for op in _changes_order(edit)]
    chosen: tuple[Operation, Operation] | None = edit.some(
        (view, op) for view, op in pairs if view.target == RESHAPE
    )
    return chosen


@fault("ranks and rows taken for one another")
def sizes_exchanged(edit: Edit) -> bool:
    """Tokens are taken apart as if there were as many ranks as rows, and the other way round."""
    chosen = _apart(edit)
    if chosen is None:
        return False
    view, permuted = chosen
    one, other, *rest = view.tensor.shape
    if one == other:
        return False
    apart, moved = _shaped(view, other, one, *rest), _shaped(view, one, other, *rest)
    edit.make(view, RESHAPE, view.args[0], apart.shape)
    edit.ops[view.name] = replace(edit.ops[view.name], value=apart)
    edit.ops[permuted.name] = replace(permuted, value=moved)
    for user in edit.users(permuted.name):
        if user.target == CLONE:
            edit.ops[user.name] = replace(user, value=moved)
    return True


@harmless("ranks and rows taken for one another")
def flat_first(edit: Edit) -> bool:
    """Tokens are made one dimension before they are taken apart."""
    chosen = _apart(edit)
    if chosen is None:
        return False
    view, _ = chosen
    one, other, shard, *rest = view.tensor.shape
    value = _shaped(view, one * other * shard, *rest)
    flat = edit.put(RESHAPE, view.args[0], value.shape, like=view, value=value)
    edit.make(view, RESHAPE, Ref(flat), view.tensor.shape)
    return True


def _parts(edit: Edit) -> Operation | None:
    """Return a join of the parts of one value."""

    def splits(op: Operation) -> bool:
        parts = [edit.ops[name] for name in op.operands]
        return all(x.target == GETITEM for x in parts) and len({x.operands[0] for x in parts}) == 1

    joins = [op for op in edit.calls(CAT) if len(op.args[0]) > 1 and splits(op)]
    chosen: Operation | None = edit.some(joins)
    return chosen


@fault("a part of a split dropped or swapped")
def other_parts(edit: Edit) -> bool:
    """Two parts change places, or one is there twice."""
    op = _parts(edit)
    if op is None:
        return False
    parts = list(op.args[0])
    i, j = edit.random.sample(range(len(parts)), 2)
    if edit.ops[parts[i].name].value != edit.ops[parts[j].name].value:
        return False
    parts[i], parts[j] = parts[j], edit.random.choice((parts[i], parts[j]))
    edit.make(op, CAT, tuple(parts), *op.args[1:])
    return True


@harmless("a part of a split dropped or swapped")
def part_copied(edit: Edit) -> bool:
    """A part is copied."""
    op = _parts(edit)
    if op is None:
        return False
    name = edit.some(op.operands)
    edit.use(op, name, edit.put(CLONE, Ref(name), like=edit.ops[name]))
    return True


def _of_a_copy(edit: Edit, op: Operation | None) -> bool:
    """Let an operation take a copy of its first operand."""
    if op is None:
        return False
    copy = edit.put(CLONE, op.args[0], like=edit.ops[op.operands[0]])
    edit.make(op, op.target, Ref(copy), *op.args[1:])
    return True


@fault("an exchange the other way round")
def turned_round(edit: Edit) -> bool:
    """Tokens go back that should go there."""
    op = edit.some(edit.calls(EXCHANGE, ARRANGE))
    if op is None:
        return False
    edit.make(op, op.target, *op.args[:2], not op.args[2], *op.args[3:])
    return True


@harmless("an exchange the other way round")
def sent_copied(edit: Edit) -> bool:
    """The tokens that are sent are copied first."""
    return _of_a_copy(edit, edit.some(edit.calls(EXCHANGE, ARRANGE)))


@fault("an exchange for slices of other lengths")
def other_lengths(edit: Edit) -> bool:
    """As many tokens are exchanged, as if they belonged to other slices."""
    op = edit.some(edit.calls(EXCHANGE, ARRANGE))
    if op is None:
        return False
    held = sum(op.args[1])
    ways = {(held,), *((i, held - i) for i in range(1, held)), (1,) * held} - {op.args[1]}
    edit.make(op, op.target, op.args[0], edit.some(sorted(ways)), *op.args[2:])
    return True


@harmless("an exchange for slices of other lengths")
def received_copied(edit: Edit) -> bool:
    """The tokens that arrive are copied."""
    waits = [op for op in edit.calls(WAIT) if edit.ops[op.operands[0]].target == EXCHANGE]
    wait = edit.some(waits)
    if wait is None:
        return False
    users = edit.users(wait.name)
    copy = edit.put(CLONE, Ref(wait.name), like=wait)
    for user in users:
        edit.use(user, wait.name, copy)
    return True


@fault("tokens not put in order for an exchange")
def not_arranged(edit: Edit) -> bool:
    """Tokens are sent, or used, in the order in which they are."""
    op = edit.some(edit.calls(ARRANGE))
    if op is None:
        return False
    edit.make(op, CLONE, op.args[0])
    return True


@harmless("tokens not put in order for an exchange")
def arranged_thrice(edit: Edit) -> bool:
    """Tokens are put in order, back, and in order again."""
    op = edit.some(edit.calls(ARRANGE))
    if op is None:
        return False
    value, lengths, back, *rest = op.args
    first = edit.put(ARRANGE, value, lengths, back, *rest, like=op)
    undone = edit.put(ARRANGE, Ref(first), lengths, not back, *rest, like=op)
    edit.make(op, ARRANGE, Ref(undone), lengths, back, *rest)
    return True


@fault("an exchange or a gather left out")
def kept(edit: Edit) -> bool:
    """Ranks keep the tokens that they should send, or have their own in place of all ranks'."""
    launch = edit.some(edit.calls(EXCHANGE, GATHER))
    if launch is None:
        return False
    for wait in edit.users(launch.name):
        if launch.target == GATHER:
            edit.make(wait, CAT, (launch.args[0],) * launch.args[1], 0)
        else:
            edit.make(wait, CLONE, launch.args[0])
    edit.ops.pop(launch.name)
    return True


@harmless("an exchange or a gather left out")
def waited_for_again(edit: Edit) -> bool:
    """It is waited for once more."""
    return wait_again(edit, edit.some(edit.calls(EXCHANGE, GATHER)))


@fault("another rank's part")
def part_of_one_rank(edit: Edit) -> bool:
    """All ranks take the part of one rank."""
    op = edit.some(edit.calls(OWN_PART))
    if op is None:
        return False
    value, dim, ranks, _ = op.args
    length = op.tensor.shape[dim]
    start = edit.random.randrange(ranks) * length
    edit.make(op, SLICE, value, dim, start, start + length)
    return True


@harmless("another rank's part")
def part_of_a_copy(edit: Edit) -> bool:
    """A rank takes its part of a copy."""
    return _of_a_copy(edit, edit.some(edit.calls(OWN_PART)))


def _received(edit: Edit) -> tuple[Operation, Operation] | None:
    """Return something that reads what came from several ranks, and the wait for that."""
    waits = [
        op for op in edit.ops.values()
        if is_wait(op) and edit.ops[op.operands[0]].target in (EXCHANGE, GATHER)
        and op.tensor.shape[0] % 2 == 0
    ]  # fmt: skip
    chosen: tuple[Operation, Operation] | None = edit.some(
        (user, wait) for wait in waits for user in edit.users(wait.name) if not is_wait(user)
    )
    return chosen


def _other_half_first(edit: Edit, name: str) -> str:
    op = edit.ops[name]
    half, rest = op.tensor.shape[0] // 2, op.tensor.shape[1:]
    apart = _shaped(op, 2, half, *rest)
    split = edit.put(RESHAPE, Ref(name), apart.shape, like=op, value=apart)
    turned = edit.put(FLIP, Ref(split), (0,), like=op, value=apart)
    return edit.put(RESHAPE, Ref(turned), op.tensor.shape, like=op)


@fault("a piece for another rank")
def ranks_swapped(edit: Edit) -> bool:
    """What came from the first rank is taken for what came from the second."""
    chosen = _received(edit)
    if chosen is None:
        return False
    user, wait = chosen
    edit.use(user, wait.name, _other_half_first(edit, wait.name))
    return True


@harmless("a piece for another rank")
def ranks_swapped_twice(edit: Edit) -> bool:
    """The pieces of both ranks are swapped, and swapped back."""
    chosen = _received(edit)
    if chosen is None:
        return False
    user, wait = chosen
    once = _other_half_first(edit, wait.name)
    edit.use(user, wait.name, _other_half_first(edit, once))
    return True
