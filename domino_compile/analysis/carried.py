"""Which collectives carry rows of the batch, and which carry only sums over rows, or parameters.

Ranks that compute one model together (tensor, sequence, expert or context parallelism) exchange
rows. Ranks that have different batches exchange *sums over* rows, such as the statistics of a
synchronised norm or a count of tokens, or they gather sharded parameters. Each of them compiles its
program for its batch, so they must not plan anything together that depends on the batch.

The batch is followed from each input along its first dimension. If the analysis cannot tell, it
assumes that a collective carries rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import fx

from domino_compile.analysis.propagate import Analysis, propagate
from domino_compile.axes import Partial, Sliced, to_size
from domino_compile.graph.collectives import is_tangent, size_hint
from domino_compile.rules.registry import rule_of
from domino_compile.rules.rule import Trait

#: The most inputs that are followed.
MOST_INPUTS = 12


def carry_rows(
    graph: fx.Graph, launches: Collection[fx.Node], parameters: Collection[fx.Node]
) -> set[fx.Node]:
    """Return the launches whose payload has rows of the batch, or may have them.

    Args:
        graph: A functional joint or inference graph.
        launches: The collectives to classify.
        parameters: The inputs that are known to be parameters.
    """
    inputs = [n for n in _tensors(graph) if n not in parameters and not is_tangent(n)]
    if not inputs:
        return set(launches)
    carrying: set[fx.Node] = set()
    fed = _reached(graph, {n for n in _tensors(graph) if n not in parameters})
    open_ = [launch for launch in launches if launch in fed]
    for node in _likeliest(inputs)[:MOST_INPUTS]:
        dims = [dim for dim, extent in enumerate(node.meta["val"].shape) if size_hint(extent) > 1]
        if dims:
            carrying.update(_carrying(graph, node, dims[0], open_))
            open_ = [launch for launch in open_ if launch not in carrying]
        if len(dims) > 1 and open_:
            analysis = _along(graph, node, dims[1])
            carrying.update(n for n in open_ if n in analysis.sliced_collectives())
            open_ = [launch for launch in open_ if launch not in carrying]
        if not open_:
            break
    return carrying


def _tensors(graph: fx.Graph) -> Iterator[fx.Node]:
    for node in graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.ndim > 0:
            yield node


def _likeliest(inputs: Collection[fx.Node]) -> list[fx.Node]:
    """Sort integer inputs to the front: they are nearly always the batch."""
    return sorted(inputs, key=lambda n: n.meta["val"].is_floating_point())


def _reached(graph: fx.Graph, sources: Collection[fx.Node]) -> set[fx.Node]:
    """Return the nodes that are computed from some inputs, and these inputs."""
    reached = set(sources)
    for node in graph.nodes:
        if any(x in reached for x in node.all_input_nodes):
            reached.add(node)
    return reached


def _along(graph: fx.Graph, node: fx.Node, dim: int) -> Analysis:
    """Analyse a cut along a dimension of an input, and of gradients with the same extent there."""
    extent = to_size(node.meta["val"].shape[dim])
    seeds = {node: Sliced(dim)}
    for other in _tensors(graph):
        shape = other.meta["val"].shape
        if is_tangent(other) and len(shape) > dim and to_size(shape[dim]) == extent:
            seeds[other] = Sliced(dim)
    return propagate(graph, extent, seeds)


def _carrying(
    graph: fx.Graph, node: fx.Node, dim: int, launches: Collection[fx.Node]
) -> set[fx.Node]:
    """Return the launches that an input's dimension reaches without a sum over it on the way."""
    analysis = _along(graph, node, dim)
    has = dict.fromkeys(analysis.seeds, True)
    for other in graph.nodes:
        if other not in has:
            reached = any(has[x] for x in other.all_input_nodes)
            has[other] = reached and not _sums_rows(analysis, other)
    return {launch for launch in launches if has[launch]}


def _sums_rows(analysis: Analysis, node: fx.Node) -> bool:
    cut = analysis.cuts.get(node)
    if cut is not None:
        return isinstance(cut.out, Partial)
    rule = rule_of(node.target) if node in analysis.refusals else None
    return rule is not None and Trait.REDUCES in rule.traits  # it sums over the rows
