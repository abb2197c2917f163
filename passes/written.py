"""First step of ``normalise``: values that a program writes to a buffer and reads back.

Megatron-core gathers into one buffer that all layers share (its global memory buffer). In a
functional graph each write makes a new version of the whole buffer, and each layer reads from the
newest version, so no layer could be cut without joining all layers in front of it. Three rules
separate them again; none changes a value:

* A slice that is read exactly where it was written is what was written.
* A write of what a later write covers is left out.
* An operand that is ignored (what ``copy`` overwrites, the first of ``baddbmm`` with ``beta=0``) is
  an empty tensor, and not a version of the buffer. ``new_empty_strided``, which needs a value's
  type and device alone, no longer reads the value.

Contract: the pass takes a functional joint or inference graph.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import fx

from domino_compile.graph.new_nodes import inherit, run_fake
from domino_compile.graph.nodes import VIEWS

aten = torch.ops.aten
READ, WRITE = aten.slice.Tensor, aten.slice_scatter.default
#: What is left behind where a value is no longer read from a buffer.
PATHS = (*VIEWS, READ, WRITE)
PRODUCTS = (aten.addmm.default, aten.baddbmm.default)


def forward_writes(graph: fx.Graph) -> int:
    """Read what was written to buffers without the buffers; return the number of changes."""
    changed = 0
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is READ and _read_back(node):
            old = [node.args[0], node]
            node.replace_all_uses_with(node.args[0].args[1])
        elif node.target is WRITE and _covers_last(node):
            old = [node.args[0]]
            node.update_arg(0, node.args[0].args[0])
        elif _ignores_first(node) and _is_read(node.args[0]):
            old = [node.args[0]]
            node.update_arg(0, _empty_like(graph, node, node.args[0]))
        elif node.target is aten.new_empty_strided.default:
            old = [node.args[0]]
            _name_type(node)
        else:
            continue
        changed += 1
        for gone in reversed(old):
            _erase_unused(graph, gone)
    return changed


def _read_back(read: fx.Node) -> bool:
    """Return whether a slice is exactly what the buffer version that it reads has written."""
    write = read.args[0]
    if not isinstance(write, fx.Node) or write.target is not WRITE:
        return False
    written = write.args[1]
    assert isinstance(written, fx.Node)
    here, there = read.meta["val"], written.meta["val"]
    alike = here.dtype == there.dtype and here.stride() == there.stride()
    return alike and _place(read, 1) == _place(write, 2)


def _covers_last(write: fx.Node) -> bool:
    """Return whether a write leaves nothing of the write in front of it."""
    last = write.args[0]
    if not isinstance(last, fx.Node) or last.target is not WRITE:
        return False
    here, there = _place(write, 2), _place(last, 2)
    if here == there:
        return True
    numbers = all(isinstance(x, int) for x in (*here, *there))
    return (
        numbers
        and here[0] == there[0]
        and here[3] == 1
        and (here[1] <= there[1] and there[2] <= here[2])
    )


def _place(node: fx.Node, first: int) -> tuple[Any, Any, Any, Any]:
    """Return dimension, start, end and step of a slice, whose arguments begin at ``first``."""
    given = [*node.args[first:], *(None,) * 4][:4]
    names = ("dim", "start", "end", "step")
    given = [node.kwargs.get(name, value) for name, value in zip(names, given, strict=True)]
    base = node.args[0].meta["val"]  # type: ignore[union-attr]
    dim = (given[0] or 0) % base.dim()
    size = base.shape[dim]
    ends = [0 if given[1] is None else given[1], sys.maxsize if given[2] is None else given[2]]
    for i, end in enumerate(ends):
        if isinstance(end, int) and isinstance(size, int):
            ends[i] = min(max(end + size if end < 0 else end, 0), size)
    return dim, *ends, 1 if given[3] is None else given[3]


def _ignores_first(node: fx.Node) -> bool:
    """Return whether an operation needs its first operand for its shape and type alone."""
    if node.target is aten.copy.default:
        return True
    return node.target in PRODUCTS and bool(node.kwargs.get("beta", 1) == 0)


def _is_read(value: Any) -> bool:
    """Return whether a value of known size is read from a version of a buffer."""
    tensor = value.meta["val"]
    known = all(isinstance(size, int) for size in tensor.shape) and tensor.is_contiguous()
    while isinstance(value, fx.Node) and value.target in VIEWS:
        value = value.args[0]
    return known and isinstance(value, fx.Node) and value.target is READ


def _name_type(node: fx.Node) -> None:
    """Make an empty tensor from its type and device instead of from a value that has them."""
    value = node.meta["val"]
    node.target, node.args = aten.empty_strided.default, node.args[1:]
    node.kwargs = {"dtype": value.dtype, "device": value.device, "pin_memory": False}


def _empty_like(graph: fx.Graph, node: fx.Node, old: Any) -> fx.Node:
    value = old.meta["val"]
    kind = {"dtype": value.dtype, "device": value.device, "pin_memory": False}
    with graph.inserting_before(node):
        empty = graph.call_function(aten.empty.memory_format, ([*value.shape],), kind)
    inherit(empty, node)
    run_fake(empty)
    return empty


def _erase_unused(graph: fx.Graph, node: Any) -> None:
    """Erase an unused value and what led to it alone, as long as this only reads or writes."""
    if not isinstance(node, fx.Node) or node.users or node.target not in PATHS:
        return
    sources = node.all_input_nodes
    graph.erase_node(node)
    for source in sources:
        _erase_unused(graph, source)
