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
    return {
        site.launch.name: stop
        for site in sites
        if site.launch not in analysis.cuts and (stop := _nearest(analysis, site))
    }


def first_join(analysis: Analysis) -> Stop | None:
    """Return the first operation inside the graph for which a cut value is made whole."""
    for _, user in analysis.inner_joins():
        if (refusal := analysis.refusals.get(user)) is not None:
            return _stop(analysis, user, refusal.reason)
    return None


def _nearest(analysis: Analysis, site: Site) -> Stop | None:
    """Return the operation nearest in front of a collective at which the cut ends."""
    collective = f"the {site.kind} of {site.source}"
    waiting, seen = [site.launch], {site.launch}
    for node in waiting:
        if (refusal := analysis.refusals.get(node)) is not None:
            return _stop(analysis, node, refusal.reason, collective)
        cut = analysis.cuts.get(node)
        if cut is not None and (isinstance(cut.out, Partial) or cut.chain is not None):
            return _stop(
                analysis, node, "sums over the batch, so what follows has no rows", collective
            )
        more = [x for x in node.all_input_nodes if x not in seen]
        seen.update(more)
        waiting += more
    return None


def _stop(analysis: Analysis, node: fx.Node, reason: str, collective: str = "") -> Stop:
    """Return the stop at an operation, or at the one for whose sake it runs whole."""
    need = analysis.blocked.get(node)
    if need is not None:
        node, reason = need.node, need.reason
    operation = f"{node.target} ({user_line(node)})" if node.op != "output" else "a result"
    return Stop(operation, reason, collective)
