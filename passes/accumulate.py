"""``accumulate``: move sums of products in front of a collective into the matrix products.

The gradient of the input of q, k and v (or of gate and up) is a sum of three (or two) products, and
the collective waits for it: ``a @ b + c @ d`` becomes ``addmm(a @ b, c, d)``. A separate sum reads
all summands and writes the result; an addition inside a product only reads one summand. It also
saves one rounding.

Contract: The pass takes a functional joint or inference graph. Afterwards no collective's payload
is a sum of two products (half precision, same shape and type, also through views) that nothing else
needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from domino_compile.cost.rates import HALVES
from domino_compile.graph.collectives import is_launch
from domino_compile.graph.new_nodes import erase_unused, new_node
from domino_compile.graph.nodes import behind_views
from domino_compile.verify.claims import Whole, Witness

aten = torch.ops.aten
MM, ADDMM = aten.mm.default, aten.addmm.default


@dataclass(frozen=True)
class Accumulated:
    """The sums that were removed.

    Attributes:
        witness: What each sum is now.
    """

    witness: Witness = field(default_factory=Witness)

    def __len__(self) -> int:
        return len(self.witness.claims)


def accumulate_products(graph: fx.Graph) -> Accumulated:
    """Move sums into products in place."""
    launches = [node for node in graph.nodes if is_launch(node)]
    payloads = dict.fromkeys(x for node in launches for x in node.all_input_nodes)
    done = Accumulated()
    for payload in payloads:
        _accumulate(graph, payload, done.witness)
    return done


def _accumulate(graph: fx.Graph, value: Any, done: Witness) -> None:
    """Move a sum, which may be viewed, into its products, starting with the innermost."""
    add = behind_views(value)
    if add is None or add.target is not aten.add.Tensor or len(add.args) != 2 or add.kwargs:
        return
    for term in add.args:
        _accumulate(graph, term, done)
    products = [behind_views(term) for term in add.args]
    first, last = products if _is_plain(products[1]) else products[::-1]
    if not (_is_product(first) and _is_plain(last) and first is not last):
        return
    assert first is not None and last is not None
    outcome, sums = add.meta["val"], (first.meta["val"], last.meta["val"])
    if sums[0].shape != sums[1].shape or {x.dtype for x in sums} != {outcome.dtype}:
        return
    if outcome.dtype not in HALVES or outcome.numel() != sums[0].numel():
        return
    with graph.inserting_before(add):
        total = new_node(graph, last, ADDMM, (first, *last.args))
        if outcome.shape != sums[0].shape:
            total = new_node(graph, add, aten.view.default, (total, list(outcome.shape)))
    terms = add.args
    done.add(add.name, Whole(total.name))
    add.replace_all_uses_with(total)
    graph.erase_node(add)
    for term in terms:
        erase_unused(graph, term)


def _is_plain(node: fx.Node | None) -> bool:
    """Return whether the node is a product to which nothing is added yet."""
    return node is not None and node.target is MM


def _is_product(node: fx.Node | None) -> bool:
    return node is not None and node.target in (MM, ADDMM) and not node.kwargs
