"""``hold``: keep a program's own overlap of asynchronous collectives.

A program that calls a collective with ``async_op=True`` computes something else before it waits.
In a captured graph the wait comes directly after the launch, so a graph that is left alone would
lose this overlap. This pass moves each such wait, with the pointwise operations that depend on it,
in front of the first product or collective that needs it. The products in between are pinned
between launch and wait, as ``pin`` does for whole graphs.

Contract: The pass takes a forward, backward or inference graph that is not scheduled, after
Inductor's own passes. Afterwards some of its events are wrapped in ``control_deps``.
"""

from __future__ import annotations

from torch import fx

from domino_compile import _compat
from domino_compile.graph.collectives import find_sites, is_asynchronous
from domino_compile.graph.nodes import is_free
from domino_compile.passes.pin import is_event, ordering_dependencies
from domino_compile.passes.schedule import reorder


def hold_asynchronous(graph: fx.Graph) -> int:
    """Delay waits until results are read, and return the number of added dependencies."""
    sites = [site for site in find_sites(graph) if is_asynchronous(site.launch)]
    if not sites:
        return 0
    waits = {wait for site in sites for wait in site.waits}
    reorder(graph, _not_waiting(graph, waits))
    after = ordering_dependencies(graph, _in_flight(graph, {s.launch for s in sites}, waits))
    _compat.preserve_order(graph, after)
    return len(after)


def _not_waiting(graph: fx.Graph, waits: set[fx.Node]) -> list[fx.Node]:
    """Return the nodes that keep their order; others move in front of their first user."""
    behind: set[fx.Node] = set()
    kept = []
    for node in graph.nodes:
        if node in waits or any(x in behind for x in node.all_input_nodes):
            behind.add(node)
        late = node in behind and node.users and (node in waits or not is_event(node))
        if not (late or is_free(node) or node.op in ("placeholder", "output")):
            kept.append(node)
    return kept


def _in_flight(graph: fx.Graph, launches: set[fx.Node], waits: set[fx.Node]) -> list[fx.Node]:
    """Return the events from each launch to its wait, in order."""
    events: list[fx.Node] = []
    flying: set[fx.Node] = set()
    for node in graph.nodes:
        if node in launches:
            flying.add(node)
        if flying and is_event(node):
            events.append(node)
        if node in waits:
            flying -= set(node.all_input_nodes)
    return events
