"""Writes a stand-alone script that repeats our passes on one graph (``pipeline.replay``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from domino_compile._compat.operators import OpOverload
from domino_compile.graph.collectives import size_hint
from domino_compile.graph.tags import origin_of, piece_of
from domino_compile.options import Options

TEMPLATE = '''\
"""Runs the {phase} passes of domino_compile on the graph below, on fake tensors.

The sizes are those seen while compiling. Dynamic sizes are fixed here.
"""

import operator

import torch
from torch import device, inf, nan

from domino_compile.pipeline.replay import Replay

g = Replay("{phase}", {options})
{statements}
g.run()
'''


def repro_script(graph: fx.Graph, phase: str, options: Options) -> str:
    """Return the text of the script.

    Args:
        graph: The graph before the passes.
        phase: ``joint``, ``forward``, ``backward`` or ``inference``.
        options: The user's options; ``dump_dir``, which only concerns this run, is left out.

    Raises:
        NotImplementedError: The graph calls something without a name, such as a subgraph.
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
            if (piece := piece_of(node)) is not None:
                place = f"{piece.row}, {piece.column}"
                yield f'g.piece({node.name}, {place}, "{origin_of(node)}")'
        elif node.op == "output":
            yield f"g.output({_argument(node.args[0])})"
        else:
            raise NotImplementedError(f"{node.op} {node.target}")


def _target(node: fx.Node) -> str:
    target: Any = node.target
    if isinstance(target, OpOverload):
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
    """Return a tensor's ``[dtype, shape, strides, device]``, a number's value, or ``None``."""
    if isinstance(value, (int, torch.SymInt)):
        return size_hint(value)
    if not isinstance(value, torch.Tensor):
        return None
    shape = [size_hint(extent) for extent in value.shape]
    strides = [size_hint(step) for step in value.stride()]
    return [str(value.dtype).removeprefix("torch."), shape, strides, str(value.device)]
