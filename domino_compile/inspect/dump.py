"""The dump of one compile: a folder of readable files, the same bytes in every run.

::

    graph_0/
        report.txt                    what became of each collective
        plan.json                     the same for programs (``report.CompileReport``)
        joint/01.normalise.before.py  ... the graph before and after each pass
        joint/02.slice.after.py
        joint/02.slice.ops.txt        how the counts of operations changed
        forward/03.schedule.txt       the schedule: launches, waits, what hides what
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import fx

from domino_compile import _compat
from domino_compile.tags import slice_of


def readable(graph: fx.Graph) -> str:
    """The graph as text: one node a line, with its shape, slice and the user's line.

    Names, shapes and types only; nothing that differs between two runs (addresses, devices' numbers).
    """
    from domino_compile.collectives import user_line

    lines: list[str] = []
    last = ""
    for node in graph.nodes:
        source = user_line(node) if node.op == "call_function" else ""
        if source not in ("", "unknown", last):
            lines.append(f"    # {_short(source)}")
            last = source
        lines.append(f"    {_statement(node)}")
    return "def graph():\n" + "\n".join(lines) + "\n"


def _statement(node: fx.Node) -> str:
    where = slice_of(node)
    mark = f"  # slice {where}" if where is not None else ""
    if node.op == "placeholder":
        return f"{node.name} = input({_value(node)})"
    if node.op == "output":
        return f"return {_argument(node.args[0])}"
    if node.op == "get_attr":
        return f"{node.name} = self.{node.target}"
    arguments = [_argument(a) for a in node.args]
    arguments += [f"{key}={_argument(value)}" for key, value in node.kwargs.items()]
    return f"{node.name}: {_value(node)} = {_target(node)}({', '.join(arguments)}){mark}"


def _target(node: fx.Node) -> str:
    target: Any = node.target
    name = str(target) if isinstance(target, torch._ops.OpOverload) else None
    return name or getattr(target, "__name__", None) or getattr(target, "_name", "call")


def _argument(value: Any) -> str:
    if isinstance(value, fx.Node):
        return value.name
    if isinstance(value, (list, tuple)):
        inside = ", ".join(_argument(v) for v in value)
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _value(node: fx.Node) -> str:
    return _shape(node.meta.get("val"))


def _shape(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        extents = ", ".join(str(extent) for extent in value.shape)
        return f"{str(value.dtype).removeprefix('torch.')}[{extents}]"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(_shape(v) for v in value) + ")"
    return type(value).__name__ if value is not None else "?"


def _short(source: str) -> str:
    """The user's line without the folders, which differ between machines."""
    return re.sub(r"^\S*/", "", source)


def op_counts(graph: fx.Graph) -> Counter[str]:
    """How often each operation occurs."""
    return Counter(_target(n) for n in graph.nodes if n.op == "call_function")


def count_difference(before: Counter[str], after: Counter[str]) -> str:
    """The counts that a pass changed, as text."""
    rows = [
        f"{after[op] - before[op]:+5d}  {before[op]:5d} -> {after[op]:5d}  {op}"
        for op in sorted(before | after)
        if before[op] != after[op]
    ]
    return "\n".join(rows or ["no operation was added or removed"]) + "\n"


class Dump:
    """Writes the artefacts of one compile; also hands them to structured tracing.

    Args:
        root: the folder (``dump_dir``), or ``None`` to write no files.
        graph: the number of the compiled graph.
    """

    def __init__(self, root: str | None, graph: int) -> None:
        rank, world = _compat.rank_and_world()
        self.name = f"graph_{graph}"
        self.folder = None
        if root is not None:
            base = Path(root) / f"rank_{rank}" if world > 1 else Path(root)
            self.folder = base / self.name

    @property
    def wanted(self) -> bool:
        """Whether anybody looks at graphs: writing them out takes time."""
        return self.folder is not None or _compat.tracing_is_on()

    def write(self, name: str, text: str) -> None:
        """One artefact."""
        _compat.emit_artifact(f"domino_compile/{self.name}/{name}", text)
        if self.folder is not None:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
