"""``pin``: make Inductor keep the order of a graph.

Inductor reorders its kernels to save memory and fuses across waits. A few ordering dependencies
keep the order of the *events*, which are launches, waits, matrix products and attention. Every
event is made to run after all events before it, with these exceptions:

* A launch never gets a dependency. Wrapping it would hide it from Inductor's in-place pass, and
  each collective would get a copy kernel. The event after it depends on it instead, and on the
  event before it: a launch that needs nothing of what comes before it would else separate the two.
* Neither does attention that the partitioner has wrapped already, to recompute it with the random
  state of forward.
* Nothing depends on the tensor that feeds a launch, because the collective reuses its buffer.
* What follows from other dependencies is not added.

Contract: The pass takes a scheduled graph. Afterwards some events are wrapped in ``control_deps``.
"""

from __future__ import annotations

from torch import fx

from domino_compile import _compat
from domino_compile.graph.collectives import is_launch
from domino_compile.graph.nodes import is_free
from domino_compile.scheduling.kinds import event_kind, is_wrapped_attention
from domino_compile.transport.ops import is_command


def is_event(node: fx.Node) -> bool:
    """Return whether the node is an event, whose position is pinned."""
    return event_kind(node) is not None or is_command(node)


def pin_order(graph: fx.Graph) -> int:
    """Pin the order of the events in place, and return the number of added dependencies."""
    events = [n for n in graph.nodes if is_event(n)]
    if not any(is_launch(n) or is_command(n) for n in events):
        return 0
    after = ordering_dependencies(graph, events)
    _compat.preserve_order(graph, after)
    return len(after)


def ordering_dependencies(
    graph: fx.Graph, events: list[fx.Node]
) -> dict[fx.Node, tuple[fx.Node, ...]]:
    """Return the earlier events that each event with dependencies must follow.

    Sets of events are the bits of integers.
    """
    bit = {event: 1 << i for i, event in enumerate(events)}
    behind: dict[fx.Node, int] = {}  # a node's own bit, and those of the events it follows
    after: dict[fx.Node, tuple[fx.Node, ...]] = {}
    last: list[fx.Node] = []  # the events that the next one has to follow, and so all before them
    for node in graph.nodes:
        mask = 0
        for x in node.all_input_nodes:
            mask |= behind[x]
        if node in bit:
            missing = () if stays_as_it_is(node) else [e for e in last if not mask & bit[e]]
            for event in missing:
                mask |= behind[event]
            if missing:
                after[node] = tuple(missing)
            if not feeds_launch(node):
                last = [*(e for e in last if not mask & bit[e]), node]
            mask |= bit[node]
        behind[node] = mask
    return after


def stays_as_it_is(event: fx.Node) -> bool:
    """Return whether an event cannot be wrapped, so that it has no dependencies but its inputs."""
    return is_launch(event) or is_wrapped_attention(event)


def feeds_launch(node: fx.Node) -> bool:
    """Return whether a collective reads the node's own buffer, itself or through views."""
    stack, seen = [node], {node}
    while stack:
        for user in stack.pop().users:
            if is_launch(user):
                return True
            if user not in seen and user.op != "output" and is_free(user):
                seen.add(user)
                stack.append(user)
    return False
