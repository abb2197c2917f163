"""Shows a graph as text that reads like code: one node per line, grouped by module and source line.

::

    def forward(
        primals_2: i64[5,8],
    ):
        # blocks.0.up | model.py:14: return x + self.down(F.gelu(self.up(x)))
        addmm_4_s0: f32[24,64] = aten.addmm(primals_27, view_13_s0, permute_8)  # slice 0

The text has names, shapes and types only, and nothing that differs between runs or machines.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx

from domino_compile._compat.operators import OpOverload
from domino_compile.graph.collectives import is_launch, is_wait
from domino_compile.graph.tags import piece_of
from domino_compile.report.origin import count_text, line_of, module_of, piece_words, shape_text

WIDTH = 100


def readable(graph: fx.Graph, name_of: Callable[[fx.Node], str] | None = None) -> str:
    """Return the graph as text that highlights as Python but is not meant to be run.

    Args:
        graph: The graph.
        name_of: Returns the user's name of an input.
    """
    body = "".join(f"{line}\n" for line in _body(graph))
    inputs = _signature(graph.find_nodes(op="placeholder"), name_of)
    return f"# {_title(graph)}\ndef {_name(graph)}(\n{inputs}):\n{body}"


def op_counts(graph: fx.Graph) -> Counter[str]:
    """Count each operation, including those wrapped in order-pinning nodes."""
    calls = [n for n in graph.nodes if n.op == "call_function"]
    counts = Counter(map(operation, calls))
    if pinned := sum(_wrapped(n) is not None for n in calls):
        counts["(pinned behind another operation)"] = pinned
    return counts


def operation(node: fx.Node) -> str:
    """Return the operation's name without ``.default``, looking inside order-pinning wrappers."""
    inner = _wrapped(node)
    target: Any = (inner or node).target
    if isinstance(target, OpOverload):
        return str(target).removesuffix(".default")
    name = getattr(target, "__name__", None) or getattr(target, "_name", None)
    return str(name or type(target).__name__)


def _title(graph: fx.Graph) -> str:
    launches = sum(map(is_launch, graph.nodes))
    slices = {s for n in graph.nodes if (s := piece_of(n)) is not None}
    cut = count_text(len(slices), "slice") if slices else "not sliced"
    operations = sum(n.op == "call_function" for n in graph.nodes)
    return f"{operations} operations, {count_text(launches, 'collective')}, {cut}"


def _name(graph: fx.Graph) -> str:
    names = [str(n.target) for n in graph.find_nodes(op="placeholder")]
    primals = any(name.startswith("primals") for name in names)
    if any(name.startswith("tangents") for name in names):
        saved = any(not name.startswith(("tangents", "primals")) for name in names)
        return "backward" if saved or not primals else "joint"
    return "forward" if primals else "graph"


def _signature(inputs: list[fx.Node], name_of: Callable[[fx.Node], str] | None) -> str:
    lines = []
    others = []
    for node in inputs:
        value = shape_text(node.meta.get("val"))
        name = name_of(node) if name_of else node.name
        if value == "-":
            others.append(node.name)
        else:
            remark = f"  # {name}" if name != node.name else ""
            lines.append(f"    {node.name}: {value},{remark}\n")
    if others:
        lines.append(f"    # not tensors: {', '.join(others)}\n")
    return "".join(lines)


def _body(graph: fx.Graph) -> Iterator[str]:
    last = ""
    for node in graph.nodes:
        if node.op == "placeholder" or _is_subgraph(node):
            continue
        if node.op == "call_function":
            heading = " | ".join(filter(None, (module_of(node), line_of(node))))
            if heading not in ("", last):
                if last:
                    yield ""
                yield _comment(f"    # {heading}")
                last = heading
        elif node.op == "output":
            yield ""
        yield f"    {_statement(node)}"


def _comment(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


def _statement(node: fx.Node) -> str:
    if node.op == "output":
        return f"return {_argument(node.args[0])}"
    if node.op == "get_attr":
        return f"{node.name} = self.{node.target}"
    arguments, after = _call(node)
    text = f"{node.name}: {shape_text(node.meta.get('val'))} = {operation(node)}({arguments})"
    remarks = _remarks(node, after)
    return f"{text}  # {', '.join(remarks)}" if remarks else text


def _call(node: fx.Node) -> tuple[str, str]:
    """Return the arguments, and the names of the nodes that a pinned operation runs after."""
    after, args = "", list(node.args)
    if _wrapped(node) is not None:
        after, args = _argument(args[0]), args[2:]
    parts = [_argument(a) for a in args]
    parts += [f"{key}={_argument(value)}" for key, value in node.kwargs.items()]
    return ", ".join(parts), after.strip("(),")


def _remarks(node: fx.Node, after: str) -> list[str]:
    remarks = []
    if is_launch(node) or is_wait(node):
        remarks.append("launch" if is_launch(node) else "wait")
    inner = _wrapped(node)
    if inner is not None and is_wait(inner):
        remarks.append("wait")
    if (piece := piece_of(node)) is not None:
        remarks.append(piece_words(piece.slice, piece.part))
    if after:
        remarks.append(f"after {after}")
    return remarks


def _is_subgraph(node: fx.Node) -> bool:
    """Return whether the node only refers to the body of a pinned operation."""
    return node.op == "get_attr" and bool(node.users) and all(_wrapped(u) for u in node.users)


def _wrapped(node: fx.Node) -> fx.Node | None:
    """Return the operation inside a ``control_deps`` node, which pins the order, or None."""
    if node.op != "call_function" or getattr(node.target, "_name", "") != "control_deps":
        return None
    body, owner = node.args[1], node.graph.owning_module
    if not isinstance(body, fx.Node) or owner is None:
        return None
    inside = getattr(owner, str(body.target), None)
    if not isinstance(inside, fx.GraphModule):
        return None
    return next((n for n in inside.graph.nodes if n.op == "call_function"), None)


def _argument(value: Any) -> str:
    if isinstance(value, fx.Node):
        return value.name
    if isinstance(value, list):
        return f"[{', '.join(map(_argument, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_argument, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, torch.device):
        return repr(value.type)
    if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
        return str(value)
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
