"""The graphs of a compile as plain rows, for programs that display them."""

from __future__ import annotations

import json
from typing import Any

from torch import fx

from domino_compile.graph.collectives import backward_nodes, is_launch, is_wait
from domino_compile.graph.tags import origin_of, piece_of
from domino_compile.report.graph_text import operation
from domino_compile.report.origin import line_of, module_of, shape_text, slice_or_part

#: Raised whenever a column is renamed, removed or changes its meaning.
SCHEMA_VERSION = 1
#: The columns of a row. ``event`` is ``launch``, ``wait`` or empty; ``origin`` names the captured
#: collective that a launch or wait belongs to; ``slice`` is the slice of the rows, or the part of
#: the columns if only columns are cut, or None for whole work.
COLUMNS = ("name", "operation", "shape", "slice", "module", "line", "event", "origin", "inputs")

Rows = list[list[Any]]


class GraphRows:
    """The operations of one captured graph, before and after our passes, by phase."""

    def __init__(self) -> None:
        self.before: dict[str, Rows] = {}
        self.after: dict[str, Rows] = {}

    def captured(self, joint: fx.Graph) -> None:
        """Record the graph as it was captured."""
        backward = backward_nodes(joint)
        operations = [node for node in joint.nodes if node.op == "call_function"]
        self.before = {"forward": [_row(node) for node in operations if node not in backward]}
        if backward:
            self.before["backward"] = [_row(node) for node in operations if node in backward]

    def scheduled(self, phase: str, graph: fx.Graph) -> None:
        """Record a graph in its planned order."""
        self.after[phase] = [_row(n) for n in graph.nodes if n.op == "call_function"]

    def to_json(self) -> str:
        """Return the graphs as JSON, with one row per line."""
        head = {"schema_version": SCHEMA_VERSION, "columns": list(COLUMNS)}
        parts = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
        for name, phases in (("before", self.before), ("after", self.after)):
            lists = ",\n".join(f"  {json.dumps(phase)}: {_lines(r)}" for phase, r in phases.items())
            parts.append(f" {json.dumps(name)}: {{\n{lists}\n }}")
        return "{\n" + ",\n".join(parts) + "\n}\n"


def read_rows(text: str) -> tuple[dict[str, Rows], dict[str, Rows]]:
    """Return the graphs before and after from the result of ``to_json``.

    Raises:
        ValueError: The text has another schema version, or is not JSON.
        KeyError: Something is missing.
    """
    data = json.loads(text)
    if (version := data.get("schema_version")) != SCHEMA_VERSION:
        raise ValueError(f"graphs of schema version {version}, expected {SCHEMA_VERSION}")
    return data["before"], data["after"]


def _lines(rows: Rows) -> str:
    inside = ",\n".join(f"   {json.dumps(row, separators=(',', ':'))}" for row in rows)
    return f"[\n{inside}\n  ]"


def _row(node: fx.Node) -> list[Any]:
    event = "launch" if is_launch(node) else "wait" if is_wait(node) else ""
    launch = node if event == "launch" else node.all_input_nodes[0] if event == "wait" else None
    origin = "" if launch is None else origin_of(launch) or launch.name
    return [
        node.name,
        operation(node),
        shape_text(node.meta.get("val")),
        _slice(node),
        module_of(node),
        line_of(node),
        event,
        origin,
        [x.name for x in node.all_input_nodes],
    ]


def _slice(node: fx.Node) -> int | None:
    piece = piece_of(node)
    return None if piece is None else slice_or_part(piece.slice, piece.part)
