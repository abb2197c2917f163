"""``materialise``: compute expensive functions of small values only once.

Inductor fuses a pointwise value into the kernels that use it. The cosines and sines of rotary
positions are recomputed for every head of every row, in every layer and again in backward, and then
limit those kernels instead of memory. Slices make it worse, because these kernels do not speed up
in proportion. In float8 the scale of every row is derived in float64 from the row's largest value,
by a division, a logarithm and a power of two; a cast that does not hold whole rows does all of it
for every element. These casts then take longer than the products that they feed.

Queries, keys and values each multiply one float8 value: Inductor, which fixes the strides of what a
scaled product takes, casts it for each of them.

Slices of a float8 value are joined for a product of all rows, a weight's gradient. Inductor makes
all of them in one kernel, with masks, and as they are transposed on the way, it may not find tiles
that read and write whole lines: 1716 us instead of 280 (16384 x 16384, H200, torch 2.11).

This pass marks such values to be kept in memory; results do not change. Of a sine, that is the sine
itself. Of a scale, it is the last value that is as small, so that nothing is left to compute again.

Contract: The pass takes a functional joint or inference graph. Afterwards the results of expensive
operations (``scheduling.traffic``) that are used for many more elements than they have reach these
elements only through ``materialise``, and so do values that several scaled products take. After
slicing, the slices of float8 values are joined through it (``materialise_joined``).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from operator import is_not

import torch
from torch import fx

from domino_compile.cost.model import SCALED
from domino_compile.cost.rates import FLOAT8
from domino_compile.graph.new_nodes import new_node
from domino_compile.graph.nodes import computed_behind, users_of
from domino_compile.ops.materialise import materialise
from domino_compile.scheduling.kinds import is_pointwise
from domino_compile.scheduling.traffic import DIVISIONS, HARD_FUNCTIONS, elements_of, is_hard

#: A value is materialised if it is used for at least ``TIMES`` as many elements as it has, and for
#: at least ``LEAST`` elements. The extra kernel takes as long as an expensive function of some
#: hundred thousand elements.
TIMES, LEAST = 8, 1_000_000
#: Types of scales that memory holds as registers do.
WIDE = (torch.float32, torch.float64)


def materialise_values(graph: fx.Graph) -> int:
    """Mark values in place, and return how many were marked."""
    marked = dict.fromkeys(v for n in graph.nodes for v in _values_of(n) if _is_worth_it(v))
    marked |= dict.fromkeys(n for n in graph.nodes if _is_multiplied_again(n))
    for node in marked:
        with graph.inserting_after(node):
            kept = new_node(graph, node, materialise, (node,))
        node.replace_all_uses_with(kept, delete_user_cb=partial(is_not, kept))
    return len(marked)


def materialise_joined(graph: fx.Graph) -> int:
    """Mark float8 values that are joined, if fused kernels make them; return how many."""
    marked = 0
    for join in graph.find_nodes(op="call_function", target=torch.ops.aten.cat.default):
        if join.meta["val"].dtype not in FLOAT8:
            continue
        for piece in join.all_input_nodes:
            made = computed_behind(piece)
            if not is_pointwise(made) or made.target is materialise:
                continue
            with graph.inserting_before(join):
                kept = new_node(graph, piece, materialise, (piece,))
            join.replace_input_with(piece, kept)
            marked += 1
    return marked


def _is_multiplied_again(node: fx.Node) -> bool:
    """Return whether a value that a fused kernel makes is used by several scaled products."""
    if not is_pointwise(node) or sum(user.target in SCALED for user in users_of(node)) < 2:
        return False
    return node.target is not materialise


def _values_of(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the values to keep so that an expensive operation is not computed again."""
    if node.target in HARD_FUNCTIONS:
        yield node
    elif node.target in DIVISIONS and is_hard(node):
        # Half precision would be rounded in memory, and is not where it stays in registers.
        yield from (value for value in _last_small(node) if value.meta["val"].dtype in WIDE)


def _last_small(node: fx.Node) -> Iterator[fx.Node]:
    """Yield a value, or those computed from it, that operations on more elements use directly."""
    elements, seen, todo = elements_of(node), {node}, [node]
    while todo:
        value = todo.pop()
        users = [user for user in users_of(value) if is_pointwise(user)]
        if any(elements_of(user) > elements for user in users):
            yield value
            continue
        fresh = [user for user in users if user not in seen]
        seen.update(fresh)
        todo += fresh


def _is_worth_it(node: fx.Node) -> bool:
    elements = elements_of(node)
    used_for = sum(elements_of(user) for user in _broadcast_by(node))
    return used_for >= max(LEAST, TIMES * elements)


def _broadcast_by(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the operations on more elements that use a value, directly or through others.

    The search ends at expensive functions, which are materialised themselves.
    """
    elements, seen, todo = elements_of(node), {node}, [node]
    while todo:
        for user in users_of(todo.pop()):
            if user in seen or user.target in HARD_FUNCTIONS or not is_pointwise(user):
                continue
            seen.add(user)
            if elements_of(user) > elements:
                yield user
            else:
                todo.append(user)
