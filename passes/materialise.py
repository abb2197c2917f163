"""``materialise``: hard functions of small values are computed once.

Inductor fuses a pointwise value into the kernels that use it. The cosines and sines of rotary
positions are computed anew for every head of every row, in every layer and again in backward: they,
and not memory, then bound those kernels. Slices make it worse, as these kernels do not get faster
in proportion. Here such a value is marked to be in memory; nothing that is computed changes.

Contract: takes a functional joint or inference graph; afterwards the results of hard functions
(``scheduling.traffic``) that are used for many more elements than they have are arguments of
``materialise`` and of nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from domino_compile.graph.new_nodes import new_node
from domino_compile.graph.nodes import users_of
from domino_compile.ops.materialise import materialise
from domino_compile.scheduling.kinds import is_pointwise
from domino_compile.scheduling.traffic import HARD_FUNCTIONS, elements_of

#: For how many elements a value must be used to each of its own, and at least: the kernel that
#: computes it takes as long as a hard function of some hundred thousand elements.
TIMES, LEAST = 8, 1_000_000


def materialise_values(graph: fx.Graph) -> int:
    """Mark values in place; returns how many."""
    hard = [n for n in graph.nodes if n.target in HARD_FUNCTIONS and _is_worth_it(n)]
    for node in hard:
        with graph.inserting_after(node):
            kept = new_node(graph, node, materialise, (node,))
        node.replace_all_uses_with(kept, delete_user_cb=lambda user, kept=kept: user is not kept)
    return len(hard)


def _is_worth_it(node: fx.Node) -> bool:
    own = elements_of(node)
    used_for = sum(elements_of(user) for user in _broadcast_by(node))
    return used_for >= max(LEAST, TIMES * own)


def _broadcast_by(node: fx.Node) -> Iterator[fx.Node]:
    """The operations of more elements that compute with a value or with what is made of it.

    Another hard function in between will be materialised itself.
    """
    own, seen, todo = elements_of(node), {node}, [node]
    while todo:
        for user in users_of(todo.pop()):
            if user in seen or user.target in HARD_FUNCTIONS or not is_pointwise(user):
                continue
            seen.add(user)
            if elements_of(user) > own:
                yield user
            else:
                todo.append(user)
