"""Private parts of Inductor's CUDA graph trees, which share one pool of memory in a process."""

from __future__ import annotations

import threading
from typing import Any


def forget_failed_warm_up() -> None:
    """Let other programs run after one has failed in its first call, before a graph is recorded.

    A tree manager keeps the call that failed as its current node, without outputs. The next call
    of any other program in this process compares these outputs with the expected ones, and fails.
    """
    from torch._inductor import cudagraph_trees

    local: threading.local = cudagraph_trees.local
    containers: dict[int, Any] = cudagraph_trees.get_obj(local, "tree_manager_containers")
    for container in containers.values():
        manager = container.tree_manager
        if manager is not None and manager.in_warmup:
            manager.current_node = None
            manager.running_forwards_with_pending_backwards = False


def graph_skips() -> int:
    """Return how many programs of this process Inductor has not recorded as CUDA graphs."""
    from torch._dynamo.utils import counters

    return int(counters["inductor"]["cudagraph_skips"])
