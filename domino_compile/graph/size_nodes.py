"""Nodes that compute the sizes of slices, for dynamic extents."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import sympy
import torch
from torch import fx

from domino_compile import _compat
from domino_compile.axes import Chunks, to_size

aten = torch.ops.aten


class SizeNodes:
    """Turns size expressions into graph nodes, each made once.

    They stand right behind the inputs. A size that the program reads from a tensor, such as the
    number of tokens that a rank receives, stands right behind the node that reads it.
    """

    def __init__(
        self, graph: fx.Graph, chunks: Chunks, fill_meta: Callable[[fx.Node], None]
    ) -> None:
        self.graph = graph
        self.chunks = chunks
        self.fill_meta = fill_meta
        self.nodes: dict[sympy.Expr, Any] = {}
        self.last = [n for n in graph.nodes if n.op == "placeholder"][-1]
        self.late: set[Any] = set()  # the nodes behind one that reads a size from a tensor

    def node_or_int(self, value: Any) -> Any:
        """Return a size expression as a node (or ``int``), and anything else unchanged."""
        if not isinstance(value, sympy.Expr):
            return value
        if value.is_Integer:
            return int(value)
        if value not in self.nodes:
            self.nodes[value] = self._make(value)
        return self.nodes[value]

    def _make(self, value: sympy.Expr) -> Any:
        if isinstance(value, sympy.Symbol):
            return self._chunk(value) if value in self.chunks.sizes else self._input_size(value)
        if isinstance(value, (sympy.Add, sympy.Mul)):
            op = operator.add if isinstance(value, sympy.Add) else operator.mul
            first, *rest = (self.node_or_int(part) for part in value.args)
            for part in rest:
                first = self._call(op, first, part)
            return first
        if isinstance(value, sympy.Pow) and value.exp.is_Integer and value.exp > 0:
            base = self.node_or_int(value.base)
            result = base
            for _ in range(int(value.exp) - 1):
                result = self._call(operator.mul, result, base)
            return result
        if (operation := _compat.size_operations().get(value.func)) is not None:
            left, right = (self.node_or_int(part) for part in value.args)
            return self._call(operation, left, right)
        raise NotImplementedError(f"size expression {value}")

    def _chunk(self, symbol: sympy.Symbol) -> Any:
        """Make ``(total + parts - 1 - i) // parts``, which torch can bound from below."""
        parts = len(self.chunks)
        index = self.chunks.sizes.index(symbol)
        total = self.node_or_int(self.chunks.total)
        raised = self._call(operator.add, total, parts - 1 - index)
        return self._call(operator.floordiv, raised, parts)

    def _input_size(self, symbol: sympy.Symbol) -> Any:
        for node in self.graph.nodes:
            if node.op != "placeholder":
                break
            value = node.meta.get("val")
            if isinstance(value, torch.SymInt) and to_size(value) == symbol:
                # If torch finds two extents to be equal, it writes one as the other, but an input
                # keeps its symbol. From torch 2.14 on, the input's value would then not be kept
                # for a backward graph whose sizes are made from the other symbol. A sum has the
                # symbol in use.
                node.meta["val"] = value + 0
                return node
        for node in self.graph.nodes:
            value = node.meta.get("val")
            if node.op != "placeholder":
                break
            if isinstance(value, torch.Tensor):
                for dim, extent in enumerate(value.shape):
                    if to_size(extent) == symbol:
                        return self._call(aten.sym_size.int, node, dim)
        return self._read_size(symbol)

    def _read_size(self, symbol: sympy.Symbol) -> Any:
        """Return the node that reads a size from a tensor."""
        for node in self.graph.nodes:
            value = node.meta.get("val")
            if isinstance(value, torch.SymInt) and to_size(value) == symbol:
                self.late.add(node)
                return node
        raise NotImplementedError(f"nothing in the graph has the size {symbol}")

    def _call(self, target: Any, *args: Any) -> Any:
        if all(isinstance(arg, int) for arg in args):
            return target(*args)
        late = [arg for arg in args if arg in self.late]
        with self.graph.inserting_after(max(late, default=self.last)):
            node = self.graph.call_function(target, args)
        self.fill_meta(node)
        if late:
            self.late.add(node)
        else:
            self.last = node
        return node
