"""A stand-alone script that runs our passes on one graph again, without model, data or ranks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from domino_compile.collectives import size_hint
from domino_compile.options import Options
from domino_compile.tags import origin_of, slice_of, tag_slice

TEMPLATE = '''\
"""Runs the {phase} passes of domino_compile on the graph below: python {name}

Sizes are those seen while compiling; a dynamic size is a fixed one here.
"""

import torch
from torch import device, inf, nan

from domino_compile.inspect.repro import replay

OPTIONS = {options}
INPUTS = {inputs}
SLICES = {slices}
CONSTANTS = {constants}


{code}

if __name__ == "__main__":
    replay(forward, "{phase}", OPTIONS, INPUTS, SLICES, CONSTANTS)
'''


def repro_script(graph: fx.Graph, phase: str, options: Options) -> str:
    """The script's text.

    Args:
        graph: the graph as the passes found it.
        phase: ``joint``, ``forward``, ``backward`` or ``inference``.
        options: the user's; what only concerns this run (``dump_dir``) is left out.
    """
    chosen = {k: v for k, v in options.as_dict().items() if k != "dump_dir"}
    inputs = {n.name: _describe(n.meta.get("val")) for n in graph.find_nodes(op="placeholder")}
    slices = {n.name: [slice_of(n), origin_of(n)] for n in graph.nodes if slice_of(n) is not None}
    owner = graph.owning_module
    constants = {
        str(n.target): _describe(getattr(owner, str(n.target), None))
        for n in graph.find_nodes(op="get_attr")
    }
    return TEMPLATE.format(
        phase=phase,
        name="fault.repro.py",
        options=_literal(chosen),
        inputs=_literal(inputs),
        slices=_literal(slices),
        constants=_literal(constants),
        code=graph.python_code("self").src.strip(),
    )


def replay(
    forward: Any,
    phase: str,
    options: Mapping[str, Any],
    inputs: Mapping[str, list[Any] | None],
    slices: Mapping[str, list[Any]],
    constants: Mapping[str, list[Any] | None],
) -> fx.Graph:
    """Build the graph on fake tensors and run the passes on it; a fault is raised.

    Args:
        forward: the graph's code.
        phase: which passes.
        options: of the compile.
        inputs: for each input ``[dtype, shape, strides, device]``, ``None`` for no tensor.
        slices: for each sliced node ``[slice, node of the uncut graph]``.
        constants: as ``inputs``, for the attributes that the code reads.

    Returns:
        The rewritten graph.
    """
    import os

    from torch._subclasses.fake_tensor import FakeTensorMode

    from domino_compile.faults import STRICT
    from domino_compile.inspect.graph_text import readable
    from domino_compile.pipeline import Hints, Pipeline

    os.environ[STRICT] = "1"
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        root = torch.nn.Module()
        for name, described in constants.items():
            setattr(root, name, _make(described))
    graph = _trace(forward, root)
    values = {n.name: _fake(mode, inputs.get(n.name)) for n in graph.find_nodes(op="placeholder")}
    _fill(graph, values, mode, root)
    for node in graph.nodes:
        if node.name in slices:
            tag_slice(node, *slices[node.name])
    pipeline = Pipeline(Options.parse(options), Hints(), pin=options.get("lowering") != "eager")
    if phase == "joint":
        pipeline.run_joint(graph)
    else:
        pipeline.overlap = True
        pipeline.run_graph(graph)
    print(readable(graph))
    print(f"# no fault: {pipeline.report.summary()}")
    return graph


def _trace(forward: Any, root: torch.nn.Module) -> fx.Graph:
    """The graph of the code; names are taken over."""
    holder = type("Replay", (torch.nn.Module,), {"forward": forward})()
    for name, value in vars(root).items():
        if isinstance(value, torch.Tensor):
            setattr(holder, name, value)
    for name, value in root.named_buffers():
        holder.register_buffer(name, value)
    graph: fx.Graph = fx.Tracer().trace(holder)
    fx.GraphModule(holder, graph)
    return graph


def _fill(graph: fx.Graph, values: Mapping[str, Any], mode: Any, root: torch.nn.Module) -> None:
    """Give every node its ``val``."""
    for node in graph.nodes:
        if node.op == "placeholder":
            node.meta["val"] = values[node.name]
        elif node.op == "get_attr":
            node.meta["val"] = getattr(root, str(node.target))
        elif node.op == "call_function":
            args = fx.node.map_arg(node.args, lambda x: x.meta["val"])
            kwargs = fx.node.map_arg(node.kwargs, lambda x: x.meta["val"])
            with mode:
                node.meta["val"] = node.target(*args, **kwargs)


def _describe(value: Any) -> list[Any] | None:
    if not isinstance(value, torch.Tensor):
        return None if not isinstance(value, (int, torch.SymInt)) else [size_hint(value)]
    return [
        str(value.dtype).removeprefix("torch."),
        [size_hint(extent) for extent in value.shape],
        [size_hint(step) for step in value.stride()],
        str(value.device),
    ]


def _fake(mode: Any, described: list[Any] | None) -> Any:
    with mode:
        return _make(described)


def _make(described: list[Any] | None) -> Any:
    if described is None or len(described) == 1:
        return described[0] if described else None
    dtype, shape, strides, device = described
    return torch.empty_strided(shape, strides, dtype=getattr(torch, dtype), device=device)


def _literal(value: Mapping[str, Any]) -> str:
    """A dictionary as Python text, one entry a line."""
    if not value:
        return "{}"
    rows = [f"    {json.dumps(key)}: {_plain(entry)!r},\n" for key, entry in value.items()]
    return "{\n" + "".join(rows) + "}"


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
