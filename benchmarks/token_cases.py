"""Rewritings of sequence-parallel programs: tokens regrouped, exchanged, left as they arrive.

``CASES`` has for each what ``verify.check`` compares: the graph before, the graph after, and what
the pass claims. Two ranks share the tokens of a transformer block.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch

from domino_compile.analysis import CutPlan, infer_cut
from domino_compile.passes.exchange import exchange_tokens
from domino_compile.passes.relayout import relayout_graph
from domino_compile.passes.slice import slice_graph
from domino_compile.verify.claims import Witness
from domino_compile.verify.plain import Graph
from domino_compile.verify.read import read_graph
from tests.rules import test_dealt, test_regroup
from tests.rules.test_dealt import RANKS
from tests.sequence_block import block

#: The graph before, the graph after, and what the pass claims.
Rewriting: TypeAlias = tuple[Graph, Graph, Witness]


class Gather(torch.autograd.Function):
    """All-gather of tokens forward, as DTensor does it; reduce-scatter backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Return ``(rows, tokens of all ranks, ...)``."""
        del ctx
        return _gather(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        """Return this rank's tokens of the sum over the ranks."""
        del ctx
        return test_dealt.scatter(grads[0], 1)


class Scatter(torch.autograd.Function):
    """Reduce-scatter of tokens forward, all-gather backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Return this rank's tokens of the sum over the ranks."""
        del ctx
        return test_dealt.scatter(x, 1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        """Return ``(rows, tokens of all ranks, ...)``."""
        del ctx
        return _gather(grads[0])


def _gather(x: torch.Tensor) -> torch.Tensor:
    return torch.cat(test_dealt.gather(x, 0).chunk(RANKS), 1)


def _several_rows(dim: int) -> Any:
    assert dim == 1

    def step(x: Any, target: Any, *weights: Any) -> Any:
        own = x.chunk(RANKS, 1)[0]
        return (Gather.apply(block(own, *weights, Gather.apply, Scatter.apply, 1)) * target).sum()

    return step


def relaid(rows: int, cut: bool) -> Rewriting:
    """Leave tokens of several rows in the order in which they arrive; ``cut``: in slices of two."""
    graph = test_regroup.captured(_several_rows, 1, rows).graph
    if cut:
        plan = infer_cut(graph, 2, dict.fromkeys(graph.find_nodes(op="placeholder")[:2], 0))
        assert isinstance(plan, CutPlan), plan
        slice_graph(graph, plan)
    before = read_graph(graph)
    witness = relayout_graph(graph).witness
    return before, read_graph(graph), witness


def exchanged(dim: int, lengths: tuple[int, ...]) -> Rewriting:
    """Exchange the tokens of slices with a number of tokens of each rank, instead of gathering."""
    found = test_regroup.captured(test_regroup.shards_throughout, dim)
    made = test_regroup.regrouped(found)
    cut, exchanges = test_regroup.sliced(found, test_regroup.planned(found, made, lengths), made)
    before = read_graph(cut)
    witness = exchange_tokens(cut, exchanges).witness
    return before, read_graph(cut), witness


def regrouped() -> Rewriting:
    """Let ranks exchange tokens by gathering them."""
    found = test_regroup.captured(test_regroup.shards_throughout, 1)
    before = read_graph(found.graph)
    witness = test_regroup.regrouped(found).witness
    return before, read_graph(found.graph), witness


CASES: dict[str, Callable[[], Rewriting]] = {
    "tokens relaid": partial(relaid, 4, cut=False),
    "slices' tokens relaid": partial(relaid, 6, cut=True),
    "tokens exchanged": partial(exchanged, 1, (3, 1)),
    "tokens exchanged in order": partial(exchanged, 0, (2, 2)),
    "tokens regrouped": regrouped,
}
