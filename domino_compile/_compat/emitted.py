"""Shows the code that Inductor emitted for a graph, and lowers the graph again on request.

A pass in Inductor's last hook names the graph and a function (``look_at_code``). When Inductor has
written the code of that graph, the function sees it, before any cache keeps the program and before
it runs. If the function raises ``LowerAgain``, a copy of the graph that was made before Inductor's
passes goes through them, and through the hook, once more.

Only code that was accepted gets into Inductor's caches. When it comes from there it is looked at
again (``accept_loaded``); what is not accepted then counts as missing from the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx

from domino_compile._compat.config import inductor_config
from domino_compile._compat.copies import copy_of
from domino_compile._compat.wrap import wrap_once

#: The attribute of a pass whose graphs may have to be lowered again.
LOOKS = "domino_compile_looks_at_code"
#: The namespace of collectives, and the operation in it that only waits for one.
NAMESPACE, WAIT = "_c10d_functional", "wait_tensor"
#: The namespace of our operations, and what the names of those end with that start a collective.
OURS, START = "domino_compile", ("_start", "::all_to_all_tokens")


@dataclass(frozen=True)
class Emitted:
    """The code of one graph, and what Inductor knows about the names in it.

    Attributes:
        code: The source of a Python module.
        launches: The names of the graph's launches that work on a buffer, or return it, by the name
            of the buffer, in order.
        bytes: The sizes of buffers in bytes, by name.
        problem: Why the code or the names are not known; empty if they are.
    """

    code: str = ""
    launches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    bytes: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""


class LowerAgain(Exception):
    """The emitted code must not be used; the hook will leave the graph unchanged next time."""


_wanted: list[tuple[fx.Graph, Callable[[Emitted], None]]] = []


def look_at_code(graph: fx.Graph, look: Callable[[Emitted], None]) -> None:
    """Let a function see the code of a graph that is about to be lowered.

    Args:
        graph: The graph, in Inductor's last hook.
        look: A function that is called with the code, and that may raise ``LowerAgain``.
    """
    _wanted[:] = [(graph, look)]


_accepts: list[Callable[[str], bool]] = []


def accept_loaded(accepts: Callable[[str], bool]) -> None:
    """Let a function decide whether code from Inductor's caches may be used.

    It is asked about the graphs of passes that look at code.

    Args:
        accepts: Called with the code.
    """
    _accepts[:] = [accepts]


def install_code_hook() -> None:
    """Wrap the functions of Inductor that write code and lower graphs, once per process."""
    from torch._inductor.compile_fx import _InProcessFxCompile
    from torch._inductor.graph import GraphLowering
    from torch._inductor.output_code import CompiledFxGraph

    wrap_once(CompiledFxGraph, "after_deserialization", _loading)

    wrap_once(GraphLowering, "compile_to_module", _looking)
    wrap_once(_InProcessFxCompile, "codegen_and_compile", _lowering_again)


def _looking(original: Any) -> Any:
    def compile_to_module(self: Any, *args: Any, **kwargs: Any) -> Any:
        module = original(self, *args, **kwargs)
        if _wanted and self.graph is _wanted[0][0]:
            _, look = _wanted.pop()
            look(_emitted(self, Path(module.__file__)))
        return module

    return compile_to_module


def _emitted(lowering: Any, file: Path) -> Emitted:
    try:
        return Emitted(file.read_text(), _launches(lowering), _sizes(lowering))
    except Exception as error:  # an Inductor that is not known yet: its code is refused, not broken
        return Emitted(problem=f"{type(error).__name__}: {error}")


def _loading(original: Any) -> Any:
    def after_deserialization(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _accepts and _looks() and not _accepts[0](self.source_code):
            raise OSError("the order of this code is not established")  # as if it were not there
        return original(self, *args, **kwargs)

    return after_deserialization


def _looks() -> bool:
    """Whether the compile that is under way is one whose code is looked at."""
    return bool(getattr(inductor_config().post_grad_custom_post_pass, LOOKS, False))


def _lowering_again(original: Any) -> Any:
    def codegen_and_compile(self: Any, gm: fx.GraphModule, *args: Any, **kwargs: Any) -> Any:
        if not _looks() or not any(map(_is_launch, gm.graph.nodes)):
            return original(self, gm, *args, **kwargs)
        pristine = copy_of(gm)
        try:
            made = original(self, gm, *args, **kwargs)
            for _, look in _wanted:  # nobody has seen the code
                look(Emitted(problem="Inductor lowered this graph in another way"))
            return made
        except LowerAgain:
            return original(self, pristine, *args, **kwargs)
        finally:
            _wanted.clear()

    return codegen_and_compile


def _is_launch(node: fx.Node) -> bool:
    target: Any = node.target
    if node.op != "call_function":
        return False
    if getattr(target, "namespace", "") == OURS:
        return str(target._schema.name).endswith(START)
    return getattr(target, "namespace", "") == NAMESPACE and WAIT not in str(target)


def _launches(lowering: Any) -> dict[str, tuple[str, ...]]:
    """Return the nodes of collectives by the name of the buffer that they work on or return."""
    from torch._inductor import ir

    by_buffer: dict[str, tuple[str, ...]] = {}
    ordered = dict(_ordered(lowering.graph))
    for operation in lowering.operations:
        if not isinstance(operation, ir._CollectiveKernel) or isinstance(operation, ir._WaitKernel):
            continue
        origins = filter(_is_launch, operation.get_origins())
        nodes = [ordered.get(origin, origin.name) for origin in origins]
        if len(nodes) != 1:
            continue
        is_in_place = isinstance(operation.layout, ir.NoneLayout)
        results: Any = getattr(operation, "outputs", None) or [operation]
        tensors: Any = operation.inputs if is_in_place else results
        for tensor in tensors:
            name = tensor.get_name()
            by_buffer[name] = (*by_buffer.get(name, ()), nodes[0])
    return by_buffer


def _ordered(graph: fx.Graph) -> Iterator[tuple[fx.Node, str]]:
    """Yield each operation that must run after others, with the name of the node that has it.

    Such operations have graphs of their own (``control_deps``).
    """
    for node in graph.nodes:
        if getattr(node.target, "_name", "") == "control_deps":
            called: Any = getattr(graph.owning_module, str(node.args[1].target))
            yield from ((inner, node.name) for inner in called.graph.nodes)


def _sizes(lowering: Any) -> dict[str, int]:
    """Return the sizes of buffers whose shapes are constant, in bytes."""
    sizes = {}
    for name, buffer in lowering.name_to_buffer.items():
        try:
            elements = math.prod(int(extent) for extent in buffer.get_size())
            dtype: torch.dtype = buffer.get_dtype()
        except (TypeError, AttributeError, NotImplementedError):  # a symbol, a list, or no tensor
            continue
        sizes[name] = elements * dtype.itemsize
    return sizes
