"""``normalise``: merge all-reduces whose results are added, and compute equal values once.

An all-reduce is linear: ``AR(a) + AR(b) = AR(a + b)``. With DTensor, the column-parallel layers q,
k and v (or gate and up) each reduce their input gradient, and the results are added. One all-reduce
of the sum does the same with a third (or half) of the traffic.

Contract: The pass takes a functional joint or inference graph. Afterwards there is no sum of two
all-reduces that nothing else needs (same group, both sums, same shape and type, also through equal
views), and in float8 no fused operation or view is there twice (``passes.equal``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from domino_compile._compat.operators import c10d
from domino_compile.graph.collectives import WAIT, Replaced, is_wait
from domino_compile.graph.new_nodes import erase_unused, new_node
from domino_compile.graph.nodes import VIEWS, behind_views
from domino_compile.graph.tags import is_alone
from domino_compile.passes.equal import merge_equal
from domino_compile.verify.claims import Whole, Witness

aten = torch.ops.aten
ALL_REDUCE = c10d.all_reduce.default


def normalise_graph(graph: fx.Graph) -> Replaced:
    """Merge sums of all-reduces and equal values in place; return what replaces each launch."""
    into: dict[fx.Node, fx.Node] = {}
    witness = Witness()
    for node in graph.find_nodes(op="call_function", target=aten.add.Tensor):
        merge = _merge(graph, node)
        if merge is None:
            continue
        total, wait, gone = merge
        witness.add(node.name, Whole(wait.name))
        made = set(into.values())  # a sum of sums can remove the result of an earlier merge
        into |= {launch: total for launch, last in into.items() if last in gone}
        into |= {launch: total for launch in gone if launch not in made}
    merge_equal(graph)
    return Replaced({launch: (total,) for launch, total in into.items()}, witness)


def _merge(graph: fx.Graph, add: fx.Node) -> tuple[fx.Node, fx.Node, list[fx.Node]] | None:
    """Turn ``AR(a) + AR(b)`` into ``AR(a + b)``.

    Returns:
        The new launch, its wait, and the removed launches.
    """
    if len(add.args) != 2 or add.kwargs:
        return None
    left, right = (_all_reduce_behind(x) for x in add.args)
    if left is None or right is None or left.args[1:] != right.args[1:] or left.args[1] != "sum":
        return None
    a, b = left.args[0], right.args[0]
    assert isinstance(a, fx.Node) and isinstance(b, fx.Node)
    outcome, first, second = (x.meta["val"] for x in (add, *add.args))  # type: ignore[union-attr]
    same = outcome.shape == first.shape == second.shape
    if not same or not outcome.dtype == first.dtype == second.dtype or left is right:
        return None
    with graph.inserting_before(add):
        inputs = [_viewed_alike(graph, x, term) for x, term in zip((a, b), add.args, strict=True)]
        total = new_node(graph, add, aten.add.Tensor, tuple(inputs))
        launch = new_node(graph, left, ALL_REDUCE, (total, *left.args[1:]))
        wait = new_node(graph, left, WAIT, (launch,))
    add.replace_all_uses_with(wait)
    terms = add.args
    graph.erase_node(add)
    for term in terms:
        erase_unused(graph, term)
    return launch, wait, [left, right]


def _all_reduce_behind(value: Any) -> fx.Node | None:
    """Return the all-reduce whose result ``value`` is, maybe viewed, if nothing else needs it."""
    wait = behind_views(value)
    if wait is None or not is_wait(wait):
        return None
    launch = wait.args[0]
    assert isinstance(launch, fx.Node)
    if launch.target is not ALL_REDUCE or is_alone(launch):
        return None  # ranks with other programs may take part in a marked collective
    return launch if len(launch.users) == 1 else None


def _viewed_alike(graph: fx.Graph, value: fx.Node, term: Any) -> fx.Node:
    """View the input of an all-reduce in the shape in which its result is added."""
    wanted = term.meta["val"]
    if value.meta["val"].shape == wanted.shape:
        return value
    views: list[fx.Node] = []
    while term.target in VIEWS:
        views.append(term)
        term = term.args[0]
    for view in reversed(views):
        value = new_node(graph, view, view.target, (value, view.args[1]))
    return value
