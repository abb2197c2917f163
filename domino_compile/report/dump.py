"""The dump of one compile: a folder of readable files, the same bytes in every run.

::

    graph_0/
        report.txt                    what became of each collective
        plan.json                     the same for programs (``report.CompileReport``)
        graphs.json                   the operations before and after, as rows (``graph_rows``)
        joint/01.normalise.before.py  ... the graph before and after each pass
        joint/04.slice.after.py
        joint/04.slice.ops.txt        how the counts of operations changed
        forward/06.schedule.txt       the schedule: launches, waits, what hides what
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

__all__ = ["Dump", "check_folder", "count_difference", "op_counts", "readable"]

log = logging.getLogger(__name__)


def count_difference(before: Counter[str], after: Counter[str]) -> str:
    """The counts that a pass changed, as text."""
    rows = [
        f"{after[op] - before[op]:+5d}  {before[op]:5d} -> {after[op]:5d}  {op}"
        for op in sorted(before | after)
        if before[op] != after[op]
    ]
    return "\n".join(rows or ["no operation was added or removed"]) + "\n"


def check_folder(root: str | None) -> None:
    """Make sure that ``dump_dir`` can be written to, before anything is compiled.

    Raises:
        OptionError: it is a file, or cannot be made or written to.
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
    """Writes the artefacts of one compile; also hands them to structured tracing.

    Args:
        root: the folder (``dump_dir``), or ``None`` to write no files.
        graph: the number of the compiled graph.
        names: the user's names of the inputs, by position.
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
        """Whether anybody looks at graphs: writing them out takes time."""
        return self.folder is not None or _compat.tracing_is_on()

    def name_of(self, placeholder: fx.Node) -> str:
        """The user's name of a graph input, or its own."""
        position = _compat.input_position(placeholder)
        return (
            self.names.get(position, placeholder.name) if position is not None else placeholder.name
        )

    def text_of(self, graph: fx.Graph) -> str:
        """The graph as text; a graph that a failed pass left in pieces must not fail again."""
        try:
            return readable(graph, self.name_of)
        except Exception as error:
            return f"# this graph cannot be shown: {type(error).__name__}: {error}\n"

    def write_graph(self, name: str, graph: fx.Graph) -> None:
        """A graph as one artefact."""
        self.write(name, self.text_of(graph))

    def write(self, name: str, text: str) -> None:
        """One artefact. A disk that fails stops the dump, not the compile."""
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
            log.warning("dump_dir: %s; nothing more of this graph is written", error)
            self.folder = None


def _remove_earlier(folder: Path) -> None:
    """Remove the artefacts of an earlier run, which would be taken for this one's."""
    for pattern in (
        "plan.json",
        "graphs.json",
        "report.txt",
        "*/[0-9][0-9].*.py",
        "*/[0-9][0-9].*.txt",
        "*/fault.*",
    ):
        for path in folder.glob(pattern):
            path.unlink()
