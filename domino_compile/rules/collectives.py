"""Functional collectives: element by element over ranks, except on their own dimension 0.

None is pulled: a collective on a whole value stays whole, and so does its wait. (A wait for a
slice of what a whole collective is still writing would read too early.)
"""

from __future__ import annotations

from domino_compile._compat.operators import c10d
from domino_compile.axes import Sliced, quotient
from domino_compile.axes.sizes import product
from domino_compile.rules.call import Call, Cut, Outcome, Refusal
from domino_compile.rules.rule import Trait, family


def elementwise(call: Call) -> Outcome:
    """All-reduce, broadcast and the wait: every element travels alone."""
    (x,) = call.operands
    assert x.sliced is not None
    return Cut((x.sliced,), x.sliced)


def all_gather(call: Call) -> Outcome:
    """Stacks the ranks' values along dimension 0: rank-major, ``outer`` grows by the group size."""
    (x,) = call.operands
    assert x.sliced is not None
    if x.sliced.dim != 0:
        return Cut((x.sliced,), x.sliced)
    return Cut((x.sliced,), Sliced(0, product((call.arg(1, "group_size"), x.sliced.outer))))


def reduce_scatter(call: Call) -> Outcome:
    """Scatters dimension 0 over the ranks: possible on a rank-major cut."""
    (x,) = call.operands
    assert x.sliced is not None
    if x.sliced.dim != 0:
        return Cut((x.sliced,), x.sliced)
    outer = quotient(x.sliced.outer, call.arg(2, "group_size"))
    if outer is None:
        return Refusal("scatters the cut dimension itself over the ranks")
    return Cut((x.sliced,), Sliced(0, outer))


RULES = {
    **family(
        "collective",
        elementwise,
        (c10d.all_reduce.default, c10d.broadcast.default, c10d.wait_tensor.default),
        traits=Trait.COMMUNICATES,
    ),
    **family(
        "collective", all_gather, (c10d.all_gather_into_tensor.default,), traits=Trait.COMMUNICATES
    ),
    **family(
        "collective",
        reduce_scatter,
        (c10d.reduce_scatter_tensor.default,),
        traits=Trait.COMMUNICATES,
    ),
}
