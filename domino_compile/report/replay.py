"""A stand-alone script that runs our passes on one graph again, without model, data or ranks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx

from domino_compile import _compat
from domino_compile.graph.collectives import size_hint
from domino_compile.graph.tags import origin_of, slice_of, tag_slice
from domino_compile.options import Options

TEMPLATE = '''\
"""Runs the {phase} passes of domino_compile on the graph below, on fake tensors.

Sizes are those seen while compiling; a dynamic size is a fixed one here.
"""

import operator

import torch
from torch import device, inf, nan

from domino_compile.report.replay import Replay

g = Replay("{phase}", {options})
{statements}
g.run()
'''


def repro_script(graph: fx.Graph, phase: str, options: Options) -> str:
    """The script's text.

    Args:
        graph: the graph as the passes found it.
        phase: ``joint``, ``forward``, ``backward`` or ``inference``.
        options: the user's; ``dump_dir``, which only concerns this run, is left out.

    Raises:
        NotImplementedError: the graph calls what has no name, such as a graph of its own.
    """
    chosen = {k: v for k, v in options.as_dict().items() if v != getattr(Options(), k)}
    chosen.pop("dump_dir", None)
    return TEMPLATE.format(phase=phase, options=chosen, statements="\n".join(_statements(graph)))


def _statements(graph: fx.Graph) -> Iterator[str]:
    for node in graph.nodes:
        if node.op == "placeholder":
            yield f'{node.name} = g.input("{node.target}", {_describe(node.meta.get("val"))})'
        elif node.op == "get_attr":
            value = getattr(graph.owning_module, str(node.target), None)
            yield f'{node.name} = g.constant("{node.target}", {_describe(value)})'
        elif node.op == "call_function":
            parts = [_target(node), *map(_argument, node.args)]
            parts += [f"{key}={_argument(value)}" for key, value in node.kwargs.items()]
            yield f'{node.name} = g("{node.name}", {", ".join(parts)})'
            if slice_of(node) is not None:
                yield f'g.slice({node.name}, {slice_of(node)}, "{origin_of(node)}")'
        elif node.op == "output":
            yield f"g.output({_argument(node.args[0])})"
        else:
            raise NotImplementedError(f"{node.op} {node.target}")


def _target(node: fx.Node) -> str:
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        return f"torch.ops.{target}"
    module = getattr(target, "__module__", "")
    if module in ("_operator", "operator"):
        return f"operator.{target.__name__}"
    raise NotImplementedError(f"call of {target}")


def _argument(value: Any) -> str:
    if isinstance(value, fx.Node):
        return value.name
    if isinstance(value, list):
        return f"[{', '.join(map(_argument, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_argument, value))}{',' if len(value) == 1 else ''})"
    return repr(value)


def _describe(value: Any) -> Any:
    """``[dtype, shape, strides, device]`` of a tensor, the value of a number, else ``None``."""
    if isinstance(value, (int, torch.SymInt)):
        return size_hint(value)
    if not isinstance(value, torch.Tensor):
        return None
    shape = [size_hint(extent) for extent in value.shape]
    strides = [size_hint(step) for step in value.stride()]
    return [str(value.dtype).removeprefix("torch."), shape, strides, str(value.device)]


class Replay:
    """Builds the graph of a repro on fake tensors and runs the passes on it.

    Args:
        phase: which passes.
        options: of the compile, where they differ from the defaults.
    """

    def __init__(self, phase: str, options: Mapping[str, Any]) -> None:
        _compat.inductor_decompositions()  # loads Inductor's own operations
        self.phase = phase
        self.options = Options.parse(options)
        self.graph = fx.Graph()
        self.root = torch.nn.Module()
        self.mode = _compat.fake_mode_of(self.graph)

    def input(self, name: str, described: Any) -> fx.Node:
        """An input of the graph (see ``_describe``)."""
        node = self.graph.placeholder(name)
        node.meta["val"] = self._make(described)
        return node

    def constant(self, name: str, described: Any) -> fx.Node:
        """An attribute that the graph reads."""
        value = self._make(described)
        setattr(self.root, name, value)
        node = self.graph.create_node("get_attr", name)
        node.meta["val"] = value
        return node

    def __call__(self, name: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """An operation of the graph."""
        node = self.graph.create_node("call_function", target, args, kwargs, name)
        values = fx.node.map_arg((args, kwargs), lambda x: x.meta["val"])
        with self.mode:
            node.meta["val"] = target(*values[0], **values[1])
        return node

    def slice(self, node: fx.Node, index: int, origin: str) -> None:
        """Mark an operation as belonging to a slice."""
        tag_slice(node, index, origin)

    def output(self, result: Any) -> None:
        """What the graph returns."""
        self.graph.output(result)

    def run(self) -> fx.Graph:
        """Run the passes and print the graph.

        Raises:
            InternalError: the fault.
        """
        from domino_compile.pipeline import Hints, Pipeline
        from domino_compile.report.faults import STRICT
        from domino_compile.report.graph_text import readable

        os.environ[STRICT] = "1"
        fx.GraphModule(self.root, self.graph)
        pipeline = Pipeline(self.options, Hints(), pin=self.options.lowering == "inductor")
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
