"""What happens when one of our passes fails: the user's program goes on, we leave evidence."""

from __future__ import annotations

import logging
import os
import traceback

from domino_compile.errors import InternalError
from domino_compile.inspect.dump import Dump
from domino_compile.options import Options

log = logging.getLogger(__name__)

#: Set in our tests: a fault is an error there, never a silent fallback.
STRICT = "DOMINO_COMPILE_STRICT"


def report_fault(
    dump: Dump, phase: str, before: str, after: str, error: Exception, options: Options
) -> None:
    """Write the graphs and the traceback, and say in one line that the graph was left alone.

    Raises:
        InternalError: under ``DOMINO_COMPILE_STRICT=1``.
    """
    trace = "".join(traceback.format_exception(error))
    dump.write(f"{phase}/fault.before.py", before)
    dump.write(f"{phase}/fault.after.py", after)
    dump.write(f"{phase}/fault.txt", f"options: {options.describe()}\n\n{trace}")
    folder = str(dump.folder) if dump.folder is not None else None
    message = f"internal fault in the {phase} passes: {type(error).__name__}: {error}"
    if os.environ.get(STRICT) == "1":
        raise InternalError(message, folder) from error
    log.error(
        "%s; this graph is compiled by Inductor alone%s",
        message,
        f" (see {folder})" if folder else " (set dump_dir to see the graphs)",
    )
    log.debug("%s", trace)
