"""Matrix products: cut rows, cut columns, or a contraction cut on both sides (a partial sum)."""

from __future__ import annotations

import torch

from domino_compile.axes import WHOLE, PartialSum, Sliced, States
from domino_compile.rules.call import Call, Cut, Operand, Outcome, Refusal
from domino_compile.rules.pointwise import broadcast_state
from domino_compile.rules.rule import family

aten = torch.ops.aten


def product_states(left: Operand, right: Operand) -> tuple[States, States, States] | Refusal:
    """Return the states of ``left``, ``right`` and the result of ``(..., m, k) @ (..., k, n)``.

    Both operands have the same rank (2 or 3); rows take precedence if both are cut.
    """
    row, col = left.rank - 2, left.rank - 1
    a, b = left.sliced, right.sliced
    if a is not None and a.dim < row:
        return a, a, a
    if a is not None and a.dim == row:
        return a, WHOLE, a
    if a is not None and a.dim == col:
        return a, Sliced(row, a.outer), PartialSum()
    assert b is not None
    if b.dim < row:
        return b, b, b
    if b.dim == row:
        return Sliced(col, b.outer), b, PartialSum()
    return WHOLE, b, b


def matmul(call: Call) -> Outcome:
    """Cut ``mm`` or ``bmm``."""
    left, right = call.operands
    states = product_states(left, right)
    if isinstance(states, Refusal):
        return states
    return Cut(states[:2], states[2])


def pull_matmul(call: Call, want: Sliced) -> Outcome:
    """Make rows of the result from the left operand's rows, or a batch dimension from both."""
    left = call.operands[0]
    if want.dim < left.rank - 2:
        return Cut((want, want), want)
    if want.dim == left.rank - 2:
        return Cut((want, WHOLE), want)
    return Refusal("columns of a product are not pulled")


def product_columns(call: Call, want: Sliced) -> Outcome:
    """Cut the columns of any product in this file by cutting the right operand's columns."""
    *added, left, _ = call.operands
    if want.dim != left.rank - 1:
        return Refusal("not the columns of the product")
    before = tuple(broadcast_state(x, want, left.rank) for x in added)
    return Cut((*before, WHOLE, want), want)


def add_matmul(call: Call) -> Outcome:
    """Cut ``addmm`` or ``baddbmm``, where the added value is broadcast to the result."""
    added, left, right = call.operands
    if left.sliced is None and right.sliced is None:
        return Refusal("only the added value is cut")
    states = product_states(left, right)
    if isinstance(states, Refusal):
        return states
    out = states[2]
    if not isinstance(out, Sliced):
        return Refusal("adds a value to a partial sum")
    return Cut((broadcast_state(added, out, left.rank), *states[:2]), out)


def matvec(call: Call) -> Outcome:
    """Cut ``mv``, a product of a matrix and a vector."""
    matrix, vector = call.operands
    if matrix.sliced is not None and matrix.sliced.dim == 0:
        return Cut((matrix.sliced, WHOLE), Sliced(0, matrix.sliced.outer))
    cut = matrix.sliced or vector.sliced
    assert cut is not None
    return Cut((Sliced(1, cut.outer), Sliced(0, cut.outer)), PartialSum())


def dot(call: Call) -> Outcome:
    """Cut ``dot``, a product of two vectors."""
    cut = next(call.cut_operands()).sliced
    assert cut is not None
    return Cut((cut, cut), PartialSum())


RULES = {
    **family(
        "matmul", matmul, (aten.mm.default, aten.bmm.default), pull_matmul, columns=product_columns
    ),
    **family(
        "addmm", add_matmul, (aten.addmm.default, aten.baddbmm.default), columns=product_columns
    ),
    **family("mv", matvec, (aten.mv.default,)),
    **family("dot", dot, (aten.dot.default, aten.vdot.default)),
}
