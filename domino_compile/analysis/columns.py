"""Cut products by columns, so that one part's collective runs while the next part is computed.

Unlike a row cut, a column cut does not need a batch. For a product whose result is communicated (a
row-parallel layer's output in forward, a column-parallel layer's input gradient in backward)::

    y = all_reduce(x @ W)    ->    y0 = all_reduce(x @ W[:, :n])    y1 = all_reduce(x @ W[:, n:])

The cut begins at the product and extends through collectives, views and pointwise operations (bias,
dropout, residual) to the first operation that couples the columns, such as a norm. There the parts
are joined, and the value is whole from there on: the next cut begins at the next product.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import fx

from domino_compile.analysis import reasons
from domino_compile.analysis.infer import CutPlan, NoCut, extended
from domino_compile.analysis.propagate import Analysis, Limits, propagate
from domino_compile.axes import WHOLE, Chunks, Sliced
from domino_compile.graph.collectives import Site, find_sites, is_launch, is_wait
from domino_compile.graph.nodes import is_free
from domino_compile.graph.tags import origin_of
from domino_compile.rules.registry import rule_of, traits_of
from domino_compile.rules.rule import Trait

aten = torch.ops.aten

#: Operations through which a column cut extends.
_THROUGH = Trait.POINTWISE | Trait.COMMUNICATES | Trait.RESHAPES


def cut_columns(
    graph: fx.Graph,
    parts: int,
    sites: Sequence[Site] | None = None,
    at: Collection[str] = (),
) -> CutPlan | NoCut:
    """Cut the products in front of collectives by columns, and analyse the graph.

    Args:
        graph: A functional joint or inference graph.
        parts: The requested number of parts.
        sites: The collectives in front of which to cut; by default all in the graph.
        at: The names that some of these collectives have in the uncut graph, to cut in front of
            these only; empty for all.
    """
    sites = find_sites(graph) if sites is None else sites
    if not sites:
        return NoCut(reasons.no_collective())
    if at:
        sites = [s for s in sites if (origin_of(s.launch) or s.launch.name) in at]
    extent, seeds = _seeds(sites)
    if not seeds:
        return NoCut(reasons.no_product())
    multiple = _multiple(seeds)
    if extent < parts * multiple or extent % multiple:
        return NoCut(reasons.few_columns(extent, parts, multiple))
    analysis = _until_settled(graph, extent, seeds)
    if not {site.launch for site in sites} & set(analysis.sliced_collectives()):
        return NoCut(reasons.no_column_carrier(), analysis)
    return CutPlan(Chunks.even(extent, parts, multiple), analysis, columns=True)


def _seeds(sites: Sequence[Site]) -> tuple[int, dict[fx.Node, Sliced]]:
    """Return the products to cut: those of the width for which most bytes are communicated."""
    payloads: dict[int, int] = {}
    by_width: dict[int, dict[fx.Node, Sliced]] = {}
    for site in sites:
        for product in _products(site.launch):
            shape = product.meta["val"].shape
            if isinstance(shape[-1], int):
                payloads[shape[-1]] = payloads.get(shape[-1], 0) + site.payload
                by_width.setdefault(shape[-1], {})[product] = Sliced(len(shape) - 1)
    if not by_width:
        return 0, {}
    widest = max(payloads, key=lambda extent: payloads[extent])
    return widest, by_width[widest]


def _products(launch: fx.Node) -> Iterator[fx.Node]:
    """Yield the products whose results, or a sum of them, are the payload."""
    waiting, seen = list(launch.all_input_nodes), set[fx.Node]()
    while waiting:
        node = waiting.pop()
        if node in seen or node.op != "call_function":
            continue
        seen.add(node)
        if _has_columns(node):
            yield node
        elif _traits(node) & _THROUGH and not is_launch(node) and not is_wait(node):
            waiting.extend(node.all_input_nodes)


def _has_columns(node: fx.Node) -> bool:
    """Return whether the node is a matrix product whose columns can be cut."""
    rule = rule_of(node.target)
    return rule is not None and rule.columns is not None


def _multiple(products: Collection[fx.Node]) -> int:
    """Return the number that must divide the columns of a part, for all products."""
    rules = (rule_of(node.target) for node in products)
    return math.lcm(*(rule.multiple for rule in rules if rule is not None))


def _until_settled(graph: fx.Graph, extent: int, seeds: Mapping[fx.Node, Sliced]) -> Analysis:
    """Propagate until every value that is joined somewhere is whole from there on."""
    within = frozenset(n for n in graph.nodes if n in seeds or _traits(n) & _THROUGH or is_free(n))
    drawn = _drawn(graph)
    ends: frozenset[fx.Node] = frozenset()
    while True:
        limits = Limits(within | drawn, ends, pulled=drawn, columns=frozenset(seeds))
        analysis = extended(graph, propagate(graph, extent, seeds, limits=limits))
        joined = {value for value, _ in analysis.inner_joins()}
        if joined <= ends:
            return analysis
        ends |= _worth_joining(joined - ends, analysis)


def _worth_joining(joined: set[fx.Node], analysis: Analysis) -> set[fx.Node]:
    """Return the values at which to end the cut, early enough that each value is joined once.

    A value that is computed from another joined one need not be joined itself. If several are
    computed from one value (a norm's backward multiplies the gradient twice), that value is joined.
    """
    before = {value: [value, *_before(value, analysis)] for value in joined}
    first = [value for value in joined if joined.isdisjoint(before[value][1:])]
    shared = Counter(x for value in first for x in before[value])
    ends: set[fx.Node] = set()
    for value in first:
        chain = before[value]
        common = next((x for x in chain if shared[x] > 1), None)
        # If none is shared, go back through operations with one operand (square, conversion).
        earliest = next((x for x in chain if len(x.all_input_nodes) != 1), chain[-1])
        ends.add(earliest if common is None else common)
    return ends


def _before(value: fx.Node, analysis: Analysis) -> Iterator[fx.Node]:
    """Yield the chain of cut values that a value is computed from, while there is exactly one."""
    while _traits(value) & _THROUGH and not is_wait(value) and not is_launch(value):
        cut = {x for x in value.all_input_nodes if analysis.seen(x) != WHOLE}
        if len(cut) != 1:
            return
        (value,) = cut
        yield value


def _drawn(graph: fx.Graph) -> frozenset[fx.Node]:
    """Return the nodes computed from random numbers and constants only: parts of them are free."""
    drawn: set[fx.Node] = set()
    for node in graph.nodes:
        traits = _traits(node)
        if traits & Trait.CREATES or (
            traits & _THROUGH
            and node.all_input_nodes
            and all(x in drawn for x in node.all_input_nodes)
        ):
            drawn.add(node)
    return frozenset(drawn)


def _traits(node: fx.Node) -> Trait:
    return traits_of(node.target) if node.op == "call_function" else Trait.NONE
