"""The collectives of a graph, and which of them are tensor parallel. Found once, then carried on.

A tensor-parallel collective is part of the model's computation and carries rows of the batch. A
data-parallel one reduces gradients or metrics: it has nothing behind it but outputs, at most
through views and pointwise operations (a division by the number of ranks). Statistics over the
batches of all ranks, and parameters that are gathered, carry no rows (``carried``).
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
)
from domino_compile.graph.nodes import is_free
from domino_compile.rules.registry import rule_of
from domino_compile.rules.rule import Trait


@dataclass(frozen=True)
class Found:
    """The collectives of one graph.

    Attributes:
        sites: all of them, in the order in which they were found.
        parallel: the launches that are tensor parallel.
        statistics: those that are not because they carry no rows of the batch.
    """

    sites: tuple[Site, ...]
    parallel: frozenset[fx.Node]
    statistics: frozenset[fx.Node] = frozenset()

    @property
    def to_overlap(self) -> list[Site]:
        """The tensor-parallel collectives: those that compute waits for."""
        return [site for site in self.sites if site.launch in self.parallel]

    def after(self, replaced: Replaced) -> Found:
        """The collectives once a pass has replaced some of them."""
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
    """The collectives of a joint or inference graph, told apart.

    Args:
        graph: a functional graph.
        parameters: the inputs that are parameters, as far as known.
    """
    sites = find_sites(graph)
    leading = leading_to_computation(graph) if sites else set()
    computing = {s.launch for s in sites if s.launch in leading or _makes_activation(s)}
    parallel = carry_rows(graph, computing, parameters) if computing else set()
    return Found(tuple(sites), frozenset(parallel), frozenset(computing - parallel))


def _makes_activation(site: Site) -> bool:
    """Whether the result is a tensor that the forward returns, not a gradient or a metric."""
    return not site.backward and site.launch.meta["val"].ndim > 0


def leading_to_computation(graph: fx.Graph) -> set[fx.Node]:
    """The nodes on whose value a computation depends.

    Views, pointwise operations, pieces put together or into zeros, and collectives are none: what
    has nothing else behind it only finishes a result. The division of a gradient by the number of
    ranks does, and so does putting together the gradients of a parameter's parts.
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
