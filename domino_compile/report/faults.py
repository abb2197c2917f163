"""Handles a failing pass: the user's program continues, and the evidence is written to a folder."""

from __future__ import annotations

import logging
import os
import traceback
from dataclasses import dataclass

from torch import fx

from domino_compile.errors import STRICT, InternalError
from domino_compile.options import Options
from domino_compile.report.dump import Dump
from domino_compile.report.replay import repro_script
from domino_compile.verify.verifier import NotEqual

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """The failure of a pass, after which the graph was restored.

    Attributes:
        phase: The passes that were running: ``joint``, ``forward``, ``backward``, ``inference``.
        graph: The restored graph.
        broken: The graph as the failing pass left it, as text.
        error: The exception that the pass raised.
    """

    phase: str
    graph: fx.Graph
    broken: str
    error: Exception


def raises(options: Options, of_verify: bool) -> bool:
    """Return whether a fault is an error, instead of a graph that Inductor alone compiles.

    Args:
        options: The user's options.
        of_verify: Whether ``verify`` found it, so that its value ``'strict'`` applies.
    """
    return os.environ.get(STRICT) == "1" or (of_verify and options.verify == "strict")


def report_fault(dump: Dump, failure: Failure, options: Options) -> None:
    """Write the graphs, a repro and the traceback, and log one line about the fallback.

    Args:
        dump: The dump of the compile.
        failure: The failure to report.
        options: The user's options.

    Raises:
        InternalError: ``DOMINO_COMPILE_STRICT=1`` is set, or a graph is not established to be equal
            and the option ``verify`` is ``'strict'``.
    """
    phase, error = failure.phase, failure.error
    trace = "".join(traceback.format_exception(error))
    dump.write_graph(f"{phase}/fault.before.py", failure.graph)
    dump.write(f"{phase}/fault.after.py", failure.broken)
    dump.write(f"{phase}/fault.txt", f"options: {options.describe()}\n\n{trace}")
    try:
        dump.write(f"{phase}/fault.repro.py", repro_script(failure.graph, phase, options))
    except Exception as second:
        log.debug("no repro was written: %s", second)
    folder = str(dump.folder / phase) if dump.folder is not None else None
    unequal = isinstance(error, NotEqual)
    message = f"internal fault in the {phase} passes: {type(error).__name__}: {error}"
    if unequal:
        message = f"in the {phase} graph, {error}"
    if raises(options, of_verify=unequal):
        raise InternalError(message, folder) from error
    log.log(
        logging.WARNING if unequal else logging.ERROR,
        "%s; Inductor compiles %s alone%s",
        " ".join(message.split()),
        "this graph" if phase == "joint" else f"the unscheduled {phase} graph",
        f" (see fault.* in {folder})" if folder else " (set dump_dir to see the graphs)",
    )
    log.debug("%s", trace)
