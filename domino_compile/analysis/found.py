"""The collectives of a graph, and which of them are tensor parallel, determined once per graph.

A tensor-parallel collective is part of the model's computation and carries rows of the batch. A
data-parallel one reduces gradients or metrics: only outputs depend on it, at most through views and
pointwise operations (a division by the number of ranks). Statistics over the batches of all ranks,
and gathered parameters, carry no rows (``carried``).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from torch import fx

from domino_compile.analysis.carried import carry_rows
from domino_compile.graph.collectives import (
    Replaced,
    Site,
    find_sites,
    is_launch,
    is_wait,
    site_of,
    tensors_of,
)
from domino_compile.graph.nodes import is_free
from domino_compile.rules.registry import rule_of
from domino_compile.rules.rule import Trait


@dataclass(frozen=True)
class Found:
    """The collectives of one graph.

    Attributes:
        sites: All of them, in the order of the captured graph.
        parallel: The launches that are tensor parallel.
        statistics: The launches that are not tensor parallel because they carry no rows.
    """

    sites: tuple[Site, ...]
    parallel: frozenset[fx.Node]
    statistics: frozenset[fx.Node] = frozenset()

    @property
    def to_overlap(self) -> list[Site]:
        """The tensor-parallel collectives, which compute waits for."""
        return [site for site in self.sites if site.launch in self.parallel]

    def after(self, replaced: Replaced) -> Found:
        """Return the collectives after a pass has replaced some of them."""
        sites: dict[fx.Node, Site] = {}
        parallel: set[fx.Node] = set()
        for site in self.sites:
            for launch in replaced.launches.get(site.launch, (site.launch,)):
                if launch is site.launch:
                    sites[launch] = site
                elif launch not in sites:
                    sites[launch] = replace(site_of(launch, site.backward), source=site.source)
                if site.launch in self.parallel:
                    parallel.add(launch)
        return Found(tuple(sites.values()), frozenset(parallel), self.statistics)


def find_collectives(graph: fx.Graph, parameters: Collection[fx.Node] = ()) -> Found:
    """Find the collectives of a joint or inference graph, and classify them.

    Args:
        graph: A functional graph with ``val`` metadata.
        parameters: The inputs known to be parameters.
    """
    sites = find_sites(graph)
    leading = leading_to_computation(graph) if sites else set()
    computing = {s.launch for s in sites if s.launch in leading or _makes_activation(s)}
    parallel = carry_rows(graph, computing, parameters) if computing else set()
    return Found(tuple(sites), frozenset(parallel), frozenset(computing - parallel))


def _makes_activation(site: Site) -> bool:
    """Return whether the result is a tensor that forward returns, not a gradient or a metric."""
    return not site.backward and any(x.ndim for x in tensors_of(site.launch.meta["val"]))


def leading_to_computation(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes whose value a computation depends on.

    Views, pointwise operations, concatenation, writes into zeros, and collectives do not count as
    computations: a node that only they depend on merely finishes a result. Examples are the
    division of a gradient by the number of ranks, and joining the gradients of a parameter's parts.
    """
    leading: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node in leading or _computes(node):
            leading.update(node.all_input_nodes)
    return leading


def _computes(node: fx.Node) -> bool:
    if node.op != "call_function" or is_free(node) or is_launch(node) or is_wait(node):
        return False
    rule = rule_of(node.target)
    return rule is None or not rule.traits & (Trait.POINTWISE | Trait.PUTS_TOGETHER)
