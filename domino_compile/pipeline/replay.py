"""Repeats our passes on one graph for a repro script, without model, data or ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from domino_compile import _compat
from domino_compile.errors import STRICT
from domino_compile.graph.tags import Piece, tag_piece
from domino_compile.options import Options
from domino_compile.pipeline.contract import Lowering
from domino_compile.pipeline.hints import Hints
from domino_compile.pipeline.pipeline import Pipeline
from domino_compile.report import CompileReport
from domino_compile.report.graph_text import readable


class Replay:
    """Builds the graph of a repro script on fake tensors and runs the passes on it.

    Args:
        phase: Which passes are run.
        options: The options of the compile, where they differ from the defaults.
    """

    def __init__(self, phase: str, options: Mapping[str, Any]) -> None:
        _compat.inductor_decompositions()  # loads Inductor's own operations
        self.phase = phase
        self.options = Options.parse(options)
        self.graph = fx.Graph()
        self.root = torch.nn.Module()
        self.mode = _compat.fake_mode_of(self.graph)

    def input(self, name: str, described: Any) -> fx.Node:
        """Add an input of the graph (see ``_describe``)."""
        node = self.graph.placeholder(name)
        node.meta["val"] = self._make(described)
        return node

    def constant(self, name: str, described: Any) -> fx.Node:
        """Add an attribute that the graph reads."""
        value = self._make(described)
        setattr(self.root, name, value)
        node = self.graph.create_node("get_attr", name)
        node.meta["val"] = value
        return node

    def __call__(self, name: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Add an operation of the graph."""
        node = self.graph.create_node("call_function", target, args, kwargs, name)
        values = fx.node.map_arg((args, kwargs), lambda x: x.meta["val"])
        with self.mode:
            node.meta["val"] = target(*values[0], **values[1])
        return node

    def piece(self, node: fx.Node, row: int, column: int, origin: str) -> None:
        """Mark an operation as a piece of an uncut one."""
        tag_piece(node, Piece(row, column), origin)

    def output(self, result: Any) -> None:
        """Set the results of the graph."""
        self.graph.output(result)

    def run(self) -> fx.Graph:
        """Run the passes and print the graph.

        Raises:
            InternalError: A pass has failed; its cause is the fault.
        """
        os.environ[STRICT] = "1"
        fx.GraphModule(self.root, self.graph)
        fuses = self.options.lowering == "inductor"
        report = CompileReport(0, self.options.describe())
        pipeline = Pipeline(report, self.options, Hints(), Lowering(fuses=fuses))
        if self.phase == "joint":
            pipeline.run_joint(self.graph)
        else:
            pipeline.overlap = True
            pipeline.run_graph(self.graph)
        print(readable(self.graph))
        print(f"# no fault: {pipeline.report.summary()}")
        return self.graph

    def _make(self, described: Any) -> Any:
        if not isinstance(described, list):
            return described
        dtype, shape, strides, device = described
        with self.mode:
            return torch.empty_strided(shape, strides, dtype=getattr(torch, dtype), device=device)
