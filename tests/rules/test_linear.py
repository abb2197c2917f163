"""The work of the analysis grows linearly with the number of layers.

Work is counted in calls of functions, which do not depend on the machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from torch import fx

from domino_compile.analysis import CutPlan, NoCut
from domino_compile.analysis.infer import infer_cut
from domino_compile.analysis.propagate import Analysis
from domino_compile.analysis.stops import find_stops
from domino_compile.axes import Sliced
from domino_compile.graph.collectives import find_sites
from domino_compile.rules import Refusal
from tests.rules.test_dealt import RANKS, Gather, block
from tests.rules.test_regroup import S, captured, regrouped


def deep(layers: int) -> Callable[[int], Any]:
    """Blocks on a rank's piece of a value, one behind the other; the loss is of all tokens."""

    def kind(dim: int) -> Any:
        def step(x: Any, target: Any, *weights: Any) -> Any:
            x = x.chunk(RANKS, dim)[0]
            for _ in range(layers):
                x = block(x, *weights, dim=dim)
            return (Gather.apply(x, dim) * target).sum()

        return step

    return kind


def calls(work: Callable[[], Any]) -> int:
    """Return how many functions are called."""
    count = 0

    def called(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        del frame, argument
        count += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def of_exchanged_tokens(layers: int) -> int:
    found = captured(deep(layers), 1)
    named = {x.gathered: x.dim for x in regrouped(found).entries}
    plans: list[CutPlan | NoCut] = []
    counted = calls(lambda: plans.append(infer_cut(found.graph, 2, named)))
    assert isinstance(plans[0], CutPlan)
    return counted


def of_stops(layers: int) -> int:
    graph: fx.Graph = captured(deep(layers), 1).graph
    x = graph.find_nodes(op="placeholder")[0]
    first = next(node for node in graph.nodes if x in node.all_input_nodes)
    analysis = Analysis(S, {x: Sliced(1)}, refusals={first: Refusal("is far from most")})
    sites = find_sites(graph)
    assert len(find_stops(analysis, sites)) > 4 * layers
    return calls(lambda: find_stops(analysis, sites))


@pytest.mark.slow
@pytest.mark.parametrize("work", [of_exchanged_tokens, of_stops])
def test_work_is_linear(work: Callable[[int], int]) -> None:
    few, some, many = map(work, (2, 4, 8))
    assert (many - some) / 4 < 1.1 * (some - few) / 2
