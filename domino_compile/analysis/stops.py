"""The operations that keep collectives from being cut, found before the graph is rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from domino_compile.analysis.propagate import Analysis
from domino_compile.axes import Partial
from domino_compile.graph.collectives import Site, user_line


@dataclass(frozen=True)
class Stop:
    """Where the cut axis ends on its way to a collective.

    Attributes:
        operation: The operation that needs the whole value, with the user's line.
        reason: The reason why it needs it.
        collective: The collective that is not reached, with the user's line; empty if all are.
    """

    operation: str
    reason: str
    collective: str = ""

    def __str__(self) -> str:
        return f"{self.operation}: {self.reason}"


def find_stops(analysis: Analysis, sites: Sequence[Site]) -> dict[str, Stop]:
    """Return the nearest operation that stops the cut, by the name of each uncut collective."""
    uncut = [site for site in sites if site.launch not in analysis.cuts]
    nearest = _nearest(analysis, uncut[0].launch.graph) if uncut else {}
    return {
        site.launch.name: _stopped(analysis, nearest[site.launch][1], site)
        for site in uncut
        if site.launch in nearest
    }


def first_join(analysis: Analysis) -> Stop | None:
    """Return the first operation inside the graph for which a cut value is made whole."""
    for _, user in analysis.inner_joins():
        if (refusal := analysis.refusals.get(user)) is not None:
            return _stop(analysis, user, refusal.reason)
    return None


def _nearest(analysis: Analysis, graph: fx.Graph) -> dict[fx.Node, tuple[int, fx.Node]]:
    """Return for each node the nearest operation in front of it at which the cut ends.

    With it comes the number of operations in between. All are found in one walk: a search from each
    collective would take the square of the number of layers.
    """
    found: dict[fx.Node, tuple[int, fx.Node]] = {}
    for node in graph.nodes:
        if node in analysis.refusals or _sums(analysis, node):
            found[node] = 0, node
        elif behind := [found[x] for x in node.all_input_nodes if x in found]:
            distance, stop = min(behind, key=lambda x: x[0])
            found[node] = distance + 1, stop
    return found


def _sums(analysis: Analysis, node: fx.Node) -> bool:
    cut = analysis.cuts.get(node)
    return cut is not None and (isinstance(cut.out, Partial) or cut.chain is not None)


def _stopped(analysis: Analysis, node: fx.Node, site: Site) -> Stop:
    """Return the operation at which the cut ends, as what stops it on its way to a collective."""
    collective = f"the {site.kind} of {site.source}"
    if (refusal := analysis.refusals.get(node)) is not None:
        return _stop(analysis, node, refusal.reason, collective)
    return _stop(analysis, node, "sums over the batch, so what follows has no rows", collective)


def _stop(analysis: Analysis, node: fx.Node, reason: str, collective: str = "") -> Stop:
    """Return the stop at an operation, or at the one for whose sake it runs whole."""
    need = analysis.blocked.get(node)
    if need is not None:
        node, reason = need.node, need.reason
    operation = f"{node.target} ({user_line(node)})" if node.op != "output" else "a result"
    return Stop(operation, reason, collective)
