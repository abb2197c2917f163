"""Graphs before and after a pass, with the pass's claims."""

from collections.abc import Callable
from typing import NamedTuple

from torch import fx

from domino_compile.analysis import CutPlan, infer_cut
from domino_compile.graph.collectives import find_sites
from domino_compile.passes.columns import slice_columns
from domino_compile.passes.slice import slice_graph
from domino_compile.verify.claims import Witness
from domino_compile.verify.plain import Graph
from domino_compile.verify.read import read_graph


class Rewriting(NamedTuple):
    """What the checker takes."""

    before: Graph
    after: Graph
    witness: Witness


def rewritten(graph: fx.Graph, rewrite: Callable[[fx.Graph], Witness]) -> Rewriting:
    before = read_graph(graph)
    witness = rewrite(graph)
    return Rewriting(before, read_graph(graph), witness)


def by_rows(graph: fx.Graph, slices: int = 2) -> Rewriting:
    plan = infer_cut(graph, slices)
    assert isinstance(plan, CutPlan), plan
    return rewritten(graph, lambda graph: slice_graph(graph, plan).witness)


def by_columns(graph: fx.Graph) -> Rewriting:
    sites = find_sites(graph)
    return rewritten(graph, lambda graph: slice_columns(graph, 2, sites, ()).witness)
