"""The dump of one compile: a folder of readable files, with identical bytes in every run.

::

    graph_0/
        report.txt                    what happened to each collective
        plan.json                     the same for programs (``report.CompileReport``)
        graphs.json                   the operations before and after, as rows (``graph_rows``)
        certificate.txt               what ``verify`` established and how; .json to repeat it
        joint/01.normalise.before.py  ... the graph before and after each pass
        joint/05.slice.after.py
        joint/05.slice.ops.txt        how the number of each operation changed
        forward/09.schedule.txt       the schedule: launches, waits, and what hides each collective
        forward/emitted.py            the code that Inductor emitted
        forward/order.txt             its order as ``verify`` reads it; .json to read it again
        joint/fault.*                 only if one of our passes failed
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from torch import fx

from domino_compile import _compat
from domino_compile.errors import OptionError
from domino_compile.report.graph_text import op_counts, readable

__all__ = ["ARTEFACTS", "Dump", "check_folder", "count_difference", "op_counts", "readable"]

log = logging.getLogger(__name__)

#: The artefacts of one graph as patterns below its folder. What is not here, nobody cleans up.
ARTEFACTS = (
    "plan.json",
    "graphs.json",
    "report.txt",
    "certificate.txt",
    "certificate.json",
    "*/[0-9][0-9].*.py",
    "*/[0-9][0-9].*.txt",
    "*/fault.*",
    "*/order.*",
    "*/emitted.py",
)


def count_difference(before: Counter[str], after: Counter[str]) -> str:
    """Return the counts of operations that a pass changed, as text."""
    rows = [
        f"{after[op] - before[op]:+5d}  {before[op]:5d} -> {after[op]:5d}  {op}"
        for op in sorted(before | after)
        if before[op] != after[op]
    ]
    return "\n".join(rows or ["no operation was added or removed"]) + "\n"


def check_folder(root: str | None) -> None:
    """Check before anything is compiled that ``dump_dir`` can be written to.

    Raises:
        OptionError: It is a file, or it cannot be created or written to.
    """
    if root is None:
        return
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OptionError(f"dump_dir: got {root!r}, which cannot be written to: {reason}") from None


class Dump:
    """Writes the artefacts of one compile, and passes them to structured tracing.

    Args:
        root: The folder (``dump_dir``), or ``None`` to write no files.
        graph: The number of the compiled graph.
        names: The user's names of the inputs, by position.
    """

    def __init__(self, root: str | None, graph: int, names: Mapping[int, str]) -> None:
        rank, world = _compat.rank_and_world()
        self.name = f"graph_{graph}"
        self.names = names
        self.folder: Path | None = None
        self._fresh = True
        if root is not None:
            base = Path(root) / f"rank_{rank}" if world > 1 else Path(root)
            self.folder = base / self.name

    @property
    def wanted(self) -> bool:
        """Return whether graphs are wanted at all, because writing them takes time."""
        return self.folder is not None or _compat.tracing_is_on()

    def name_of(self, placeholder: fx.Node) -> str:
        """Return the user's name of a graph input, or the node's name if there is none."""
        position = _compat.input_position(placeholder)
        return (
            self.names.get(position, placeholder.name) if position is not None else placeholder.name
        )

    def text_of(self, graph: fx.Graph) -> str:
        """Return the graph as text, without raising if a failed pass left it broken."""
        try:
            return readable(graph, self.name_of)
        except Exception as error:
            return f"# this graph cannot be shown: {type(error).__name__}: {error}\n"

    def write_graph(self, name: str, graph: fx.Graph) -> None:
        """Write a graph as one artefact."""
        self.write(name, self.text_of(graph))

    def write(self, name: str, text: str) -> None:
        """Write one artefact. A disk error ends the dump, but not the compile."""
        _compat.emit_artifact(f"domino_compile/{self.name}/{name}", text)
        if self.folder is None:
            return
        try:
            if self._fresh:
                _remove_earlier(self.folder)
                self._fresh = False
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            log.warning("dump_dir: %s; the rest of this graph's dump is skipped", error)
            self.folder = None


def _remove_earlier(folder: Path) -> None:
    """Remove the artefacts of an earlier run, which could be mistaken for this run's."""
    for pattern in ARTEFACTS:
        for path in folder.glob(pattern):
            path.unlink()
