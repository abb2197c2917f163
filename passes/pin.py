"""``pin``: make Inductor keep the order of a graph.

Inductor reorders its kernels to save memory and fuses across waits. A few ordering dependencies
keep the order of the *events*, which are launches, waits, matrix products and attention. For
adjacent events ``a, b``, ``b`` is made to run after ``a``, with these exceptions:

* A launch never gets a dependency. Wrapping it would hide it from Inductor's in-place pass, and
  each collective would get a copy kernel. The event after it depends on it instead.
* Nothing depends on the tensor that feeds a launch, because the collective reuses its buffer.
* If ``b`` needs ``a`` anyway, nothing is added.

Contract: The pass takes a scheduled graph. Afterwards some events are wrapped in ``control_deps``.
"""

from __future__ import annotations

from torch import fx

from domino_compile import _compat
from domino_compile.graph.collectives import is_launch
from domino_compile.graph.nodes import is_free
from domino_compile.scheduling.kinds import event_kind

#: How many preceding events are considered as an event's neighbour (those that feed a launch are
#: skipped).
LOOK_BACK = 4


def is_event(node: fx.Node) -> bool:
    """Whether the node is an event, whose position is pinned."""
    return event_kind(node) is not None


def pin_order(graph: fx.Graph) -> int:
    """Pin the order of the events in place, and return the number of added dependencies."""
    events = [n for n in graph.nodes if is_event(n)]
    if not any(is_launch(n) for n in events):
        return 0
    after = ordering_dependencies(graph, events)
    _compat.preserve_order(graph, after)
    return len(after)


def ordering_dependencies(graph: fx.Graph, events: list[fx.Node]) -> dict[fx.Node, fx.Node]:
    """Return the earlier event that each event with a dependency must follow."""
    needs = _event_ancestors(graph, events)
    after: dict[fx.Node, fx.Node] = {}
    previous: fx.Node | None = None
    for event in events:
        if previous is not None and not is_launch(event) and previous not in needs[event]:
            after[event] = previous
        if not feeds_launch(event):
            previous = event
    return after


def feeds_launch(node: fx.Node) -> bool:
    """Whether a collective reads the node's own buffer, itself or through views."""
    stack, seen = [node], {node}
    while stack:
        for user in stack.pop().users:
            if is_launch(user):
                return True
            if user not in seen and user.op != "output" and is_free(user):
                seen.add(user)
                stack.append(user)
    return False


def _event_ancestors(graph: fx.Graph, events: list[fx.Node]) -> dict[fx.Node, set[fx.Node]]:
    """Return the few preceding events that each event depends on.

    The set of all events that a node depends on is stored as the bits of an integer.
    """
    position = {event: i for i, event in enumerate(events)}
    result: dict[fx.Node, set[fx.Node]] = {}
    ancestors: dict[fx.Node, int] = {}
    for node in graph.nodes:
        mask = 0
        for x in node.all_input_nodes:
            mask |= ancestors[x]
        if node in position:
            here = position[node]
            near = events[max(0, here - LOOK_BACK) : here]
            result[node] = {e for e in near if mask >> position[e] & 1}
            mask |= 1 << here
        ancestors[node] = mask
    return result
