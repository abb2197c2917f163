"""Graphs written by hand for the tests of passes, and a way to run them on one process.

Captured graphs differ between versions of torch; these do not. Values are fake tensors, so that
every node has the metadata that passes read.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from domino_compile.graph.collectives import WAIT, c10d, is_launch, is_wait

aten = torch.ops.aten


class Builder:
    """Makes a graph node by node; each node is run on fake tensors at once."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.mode = FakeTensorMode()

    def input(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> fx.Node:
        node = self.graph.placeholder(name)
        with self.mode:
            node.meta["val"] = torch.empty(shape, dtype=dtype)
        return node

    def call(self, target: Any, *args: Any, line: str = "", **kwargs: Any) -> fx.Node:
        name = target.overloadpacket.__name__ if isinstance(target, torch._ops.OpOverload) else None
        node = self.graph.create_node("call_function", target, args, kwargs, name)
        values = fx.node.map_arg((args, kwargs), lambda x: x.meta["val"])
        with self.mode:
            node.meta["val"] = target(*values[0], **values[1])
        if line:
            number, code = line.split(": ", 1)
            node.meta["stack_trace"] = f'  File "model.py", line {number}, in forward\n    {code}\n'
        return node

    def all_reduce(self, x: fx.Node, op: str = "sum", group: str = "tp", line: str = "") -> fx.Node:
        return self.call(WAIT, self.call(c10d.all_reduce.default, x, op, group, line=line))

    def t(self, x: fx.Node) -> fx.Node:
        return self.call(aten.permute.default, x, [1, 0])

    def contiguous(self, x: fx.Node) -> fx.Node:
        return self.call(aten.clone.default, x, memory_format=torch.contiguous_format)

    def output(self, *nodes: fx.Node) -> fx.Graph:
        self.graph.output(nodes)
        self.graph.lint()
        fx.GraphModule(nn.Module(), self.graph)
        return self.graph


def mlp_forward() -> fx.Graph:
    """``y = x + all_reduce(down(relu(up(x))))`` with what backward needs."""
    b = Builder()
    x, up, down = b.input("x", 5, 8), b.input("up", 16, 8), b.input("down", 8, 16)
    y, hidden = _mlp(b, x, up, down)
    return b.output(y, hidden)


def _mlp(b: Builder, x: fx.Node, up: fx.Node, down: fx.Node) -> tuple[fx.Node, fx.Node]:
    mm, relu = aten.mm.default, aten.relu.default
    hidden = b.call(relu, b.call(mm, x, b.t(up), line="3: h = up(x)"), line="4: h = relu(h)")
    part = b.call(mm, hidden, b.t(down), line="5: y = down(h)")
    total = b.all_reduce(part, line="6: y = all_reduce(y)")
    return b.call(aten.add.Tensor, x, total, line="7: return x + y"), hidden


def _mlp_gradients(
    b: Builder, grad: fx.Node, x: fx.Node, up: fx.Node, down: fx.Node, hidden: fx.Node
) -> list[fx.Node]:
    mm = aten.mm.default
    grad_hidden = b.call(mm, grad, down, line="5: y = down(h)")
    grad_down = b.call(mm, b.t(grad), hidden, line="5: y = down(h)")
    masked = b.call(aten.threshold_backward.default, grad_hidden, hidden, 0, line="4: h = relu(h)")
    grad_up = b.call(mm, b.t(masked), x, line="3: h = up(x)")
    part = b.call(mm, masked, up, line="3: h = up(x)")
    total = b.all_reduce(part, line="3: h = up(x)")
    return [b.call(aten.add.Tensor, grad, total, line="7: return x + y"), grad_up, grad_down]


def mlp_backward() -> fx.Graph:
    """The gradients of ``mlp_forward``."""
    b = Builder()
    x, up, down = b.input("x", 5, 8), b.input("up", 16, 8), b.input("down", 8, 16)
    hidden, grad = b.input("relu", 5, 16), b.input("tangents_1", 5, 8)
    return b.output(*_mlp_gradients(b, grad, x, up, down, hidden))


def mlp_joint(rows: int = 5) -> fx.Graph:
    """``mlp_forward`` and ``mlp_backward`` in one graph."""
    b = Builder()
    x, up = b.input("primals_1", rows, 8), b.input("primals_2", 16, 8)
    down = b.input("primals_3", 8, 16)
    grad = b.input("tangents_1", rows, 8)
    y, hidden = _mlp(b, x, up, down)
    return b.output(y, *_mlp_gradients(b, grad, x, up, down, hidden))


def attention_forward() -> fx.Graph:
    """Two heads of attention on 4 sequences of 3 tokens, and the row-parallel product."""
    b = Builder()
    x = b.input("x", 4, 3, 8)
    weights = [b.input(name, 8, 8) for name in ("query", "key", "value", "out")]
    flat = b.call(aten.view.default, x, [12, 8])
    heads = []
    for number, weight in enumerate(weights[:3]):
        line = f"{number + 3}: {'qkv'[number]} = {weight.name}(x)"
        product = b.call(aten.mm.default, flat, b.t(weight), line=line)
        split = b.call(aten.view.default, product, [4, 3, 2, 4])
        heads.append(b.call(aten.permute.default, split, [0, 2, 1, 3]))
    query, key, value = (b.contiguous(head) for head in heads)
    scores = b.call(
        aten.bmm.default,
        b.call(aten.view.default, query, [8, 3, 4]),
        b.call(aten.permute.default, b.call(aten.view.default, key, [8, 3, 4]), [0, 2, 1]),
        line="6: a = softmax(q @ k)",
    )
    weights_of = b.call(aten._softmax.default, scores, -1, False, line="6: a = softmax(q @ k)")
    mixed = b.call(
        aten.bmm.default, weights_of, b.call(aten.view.default, value, [8, 3, 4]), line="7: a @ v"
    )
    back = b.call(
        aten.permute.default, b.call(aten.view.default, mixed, [4, 2, 3, 4]), [0, 2, 1, 3]
    )
    rows = b.call(aten.view.default, b.contiguous(back), [12, 8])
    part = b.call(aten.mm.default, rows, b.t(weights[3]), line="8: y = out(a)")
    total = b.all_reduce(part, line="9: y = all_reduce(y)")
    shaped = b.call(aten.view.default, total, [4, 3, 8])
    return b.output(b.call(aten.add.Tensor, x, shaped, line="10: return x + y"))


def three_inputs_reduced(dtype: torch.dtype = torch.float32) -> fx.Graph:
    """What DTensor makes of the backward of q, k and v: three all-reduces, then their sum."""
    b = Builder()
    grads = [b.input(f"tangents_{i}", 6, 4, dtype=dtype) for i in range(3)]
    weights = [b.input(name, 4, 8, dtype=dtype) for name in ("query", "key", "value")]
    parts = [
        b.call(aten.mm.default, grad, weight, line=f"{i + 3}: {weight.name}(x)")
        for i, (grad, weight) in enumerate(zip(grads, weights, strict=True))
    ]
    first, second, third = (b.all_reduce(part) for part in parts)
    both = b.call(aten.add.Tensor, first, second)
    return b.output(b.call(aten.add.Tensor, both, third))


def rotary() -> fx.Graph:
    """One half of a rotary embedding: queries times the cosines of positions times steps."""
    b = Builder()
    query, places = b.input("query", 32, 256, 8, 64), b.input("places", 256, 1, 1)
    steps = b.call(aten.pow.Scalar, 10000.0, b.input("steps", 64), line="3: f = 10000 ** steps")
    angles = b.call(aten.mul.Tensor, places, steps, line="4: a = places * f")
    cosines = b.call(aten.cos.default, angles, line="5: c = a.cos()")
    return b.output(b.call(aten.mul.Tensor, query, cosines, line="6: return query * c"))


class OneProcess(fx.Interpreter):
    """Runs a graph where every collective finds equal values on all ranks, and sums are of two."""

    def run_node(self, n: fx.Node) -> Any:
        if n.target is c10d.all_gather_into_tensor.default:
            value, ranks, _ = self.fetch_args_kwargs_from_env(n)[0]
            return torch.cat([value] * ranks)
        if is_launch(n):
            return self.fetch_args_kwargs_from_env(n)[0][0] * 2
        if is_wait(n):
            return self.fetch_args_kwargs_from_env(n)[0][0]
        if getattr(n.target, "_name", "") == "control_deps":
            (_, inside, *args), _ = self.fetch_args_kwargs_from_env(n)
            return OneProcess(inside).run(*args)
        return super().run_node(n)


def random_inputs(graph: fx.Graph) -> list[Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(node.meta["val"].shape, dtype=torch.float64)
        for node in graph.find_nodes(op="placeholder")
    ]


def run(graph: fx.Graph, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The results for copies of the inputs, followed by those copies (they may be written to)."""
    copies = [x.clone() for x in inputs]
    result = OneProcess(_module(graph)).run(*copies)
    return [*result, *copies]


def _module(graph: fx.Graph) -> fx.GraphModule:
    return graph.owning_module or fx.GraphModule(nn.Module(), graph)


def same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return len(first) == len(second) and all(
        torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(first, second, strict=True)
    )
