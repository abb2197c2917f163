"""``materialise``: compute expensive functions of small values only once.

Inductor fuses a pointwise value into the kernels that use it. The cosines and sines of rotary
positions are recomputed for every head of every row, in every layer and again in backward, and then
limit those kernels instead of memory. Slices make it worse, because these kernels do not speed up
in proportion. This pass marks such a value to be kept in memory; results do not change.

Contract: The pass takes a functional joint or inference graph. Afterwards the results of expensive
functions (``scheduling.traffic``) that are used for many more elements than they have are only
used by ``materialise``.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from domino_compile.graph.new_nodes import new_node
from domino_compile.graph.nodes import users_of
from domino_compile.ops.materialise import materialise
from domino_compile.scheduling.kinds import is_pointwise
from domino_compile.scheduling.traffic import HARD_FUNCTIONS, elements_of

#: A value is materialised if it is used for at least ``TIMES`` as many elements as it has, and for
#: at least ``LEAST`` elements. The extra kernel takes as long as an expensive function of some
#: hundred thousand elements.
TIMES, LEAST = 8, 1_000_000


def materialise_values(graph: fx.Graph) -> int:
    """Mark values in place, and return how many were marked."""
    hard = [n for n in graph.nodes if n.target in HARD_FUNCTIONS and _is_worth_it(n)]
    for node in hard:
        with graph.inserting_after(node):
            kept = new_node(graph, node, materialise, (node,))
        node.replace_all_uses_with(kept, delete_user_cb=lambda user, kept=kept: user is not kept)
    return len(hard)


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
