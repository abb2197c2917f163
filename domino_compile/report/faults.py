"""What happens when one of our passes fails: the user's program goes on, we leave evidence."""

from __future__ import annotations

import logging
import os
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import fx

from domino_compile import _compat
from domino_compile.errors import InternalError
from domino_compile.options import Options

if TYPE_CHECKING:
    from domino_compile.report.dump import Dump

log = logging.getLogger(__name__)

#: Set in our tests: a fault is an error there, never a silent fallback.
STRICT = "DOMINO_COMPILE_STRICT"
#: Nodes that our passes never replace.
KEPT = ("placeholder", "output")


@dataclass(frozen=True)
class SavedNode:
    """What a node was. Its arguments name the nodes of that time, which may be gone since."""

    node: fx.Node
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    name: str
    type: Any
    meta: dict[str, Any]


class Backup:
    """A graph as it was, to be put back if a pass fails.

    Inputs and the output node are never replaced by our passes: a lowering may hold on to them.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.nodes = [
            SavedNode(n, n.target, n.args, n.kwargs, n.name, n.type, dict(n.meta))
            for n in graph.nodes
        ]

    def restore(self, graph: fx.Graph) -> None:
        """Put back the nodes, with their names and metadata."""
        output = graph.output_node()
        for node in graph.nodes:
            node.args, node.kwargs = (), {}
        for node in reversed(list(graph.nodes)):
            if node.op not in KEPT:
                graph.erase_node(node)
        _compat.forget_names(graph)
        now: dict[fx.Node, fx.Node] = {}
        with graph.inserting_before(output):
            for saved in self.nodes:
                args, kwargs = fx.node.map_arg((saved.args, saved.kwargs), lambda x: now[x])
                node = saved.node
                if node.op in KEPT:
                    node.args, node.kwargs = args, kwargs
                else:
                    node = graph.create_node(
                        node.op, saved.target, args, kwargs, saved.name, saved.type
                    )
                node.meta = dict(saved.meta)
                now[saved.node] = node


def report_fault(
    dump: Dump, phase: str, graph: fx.Graph, broken: str, error: Exception, options: Options
) -> None:
    """Write the graphs, a repro and the traceback; say in one line that the graph is left alone.

    Args:
        dump: of the compile.
        phase: which passes failed: ``joint``, ``forward``, ``backward`` or ``inference``.
        graph: the graph, restored.
        broken: the graph as the failing pass left it, as text.
        error: what the pass raised.
        options: the user's.

    Raises:
        InternalError: under ``DOMINO_COMPILE_STRICT=1``.
    """
    from domino_compile.report.replay import repro_script

    trace = "".join(traceback.format_exception(error))
    dump.write_graph(f"{phase}/fault.before.py", graph)
    dump.write(f"{phase}/fault.after.py", broken)
    dump.write(f"{phase}/fault.txt", f"options: {options.describe()}\n\n{trace}")
    try:
        dump.write(f"{phase}/fault.repro.py", repro_script(graph, phase, options))
    except Exception as second:
        log.debug("no repro was written: %s", second)
    folder = str(dump.folder / phase) if dump.folder is not None else None
    message = f"internal fault in the {phase} passes: {type(error).__name__}: {error}"
    if os.environ.get(STRICT) == "1":
        raise InternalError(message, folder) from error
    log.error(
        "%s; Inductor compiles %s alone%s",
        " ".join(message.split()),
        "this graph" if phase == "joint" else f"the {phase} graph in the order found",
        f" (see fault.* in {folder})" if folder else " (set dump_dir to see the graphs)",
    )
    log.debug("%s", trace)
