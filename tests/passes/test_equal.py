"""``merge_equal``: what is computed several times is computed once, and only what is equal."""

from collections.abc import Callable

import pytest
import torch
from torch import fx

from domino_compile.passes.equal import merge_equal
from tests.passes.graphs import Builder, aten, random_inputs, run

prims = torch.ops.prims


def cast(b: Builder, x: fx.Node, to: float = 1.0) -> fx.Node:
    largest = b.call(aten.amax.default, b.call(aten.abs.default, x), [-1], True)
    return b.call(aten.mul.Tensor, b.call(aten.div.Tensor, x, largest), to)


def scaled_product(b: Builder) -> fx.Node:
    """Without one, a graph is left alone."""
    to_narrow = prims.convert_element_type.default, torch.float8_e4m3fn
    left, right = (b.call(to_narrow[0], b.input(n, 16, 16), to_narrow[1]) for n in ("p", "q"))
    one = b.call(prims.convert_element_type.default, b.input("one", 1), torch.float32)
    return b.call(aten._scaled_mm.default, left, b.t(right), one, one)


def test_casts_of_one_value_are_one() -> None:
    b = Builder()
    x = b.input("x", 8, 16)
    products = [
        b.call(aten.mm.default, b.call(aten.view.default, cast(b, x), [8, 16]), w)
        for w in (b.input(f"w{n}", 16, 16) for n in range(3))
    ]
    graph = b.output(*products, scaled_product(b))
    inputs = random_inputs(graph)
    before = run(graph, inputs)
    assert merge_equal(graph) == 2 * 5
    graph.lint()
    assert all(torch.equal(x, y) for x, y in zip(run(graph, inputs), before, strict=True))
    assert merge_equal(graph) == 0


def test_graphs_without_scaled_products_stay() -> None:
    b = Builder()
    x, w = b.input("x", 8, 16), b.input("w", 16, 16)
    graph = b.output(*(b.call(aten.mm.default, cast(b, x), w) for _ in range(2)))
    assert merge_equal(graph) == 0


def of_other_numbers(b: Builder) -> list[fx.Node]:
    x, w = b.input("x", 8, 16), b.input("w", 16, 16)
    # 1 and 1.0 are equal, but not what they make of an integer.
    return [b.call(aten.mm.default, cast(b, x, number), w) for number in (1, 1.0, True)]


def of_other_types(b: Builder) -> list[fx.Node]:
    x = b.input("x", 8, 16)
    types = (torch.float16, torch.bfloat16)
    return [
        b.call(aten.exp.default, b.call(prims.convert_element_type.default, x, t)) for t in types
    ]


def drawn(b: Builder) -> list[fx.Node]:
    x, w = b.input("x", 8, 16), b.input("w", 16, 16)
    return [b.call(aten.mm.default, b.call(aten.bernoulli.p, x, 0.5), w) for _ in range(2)]


def unwritten(b: Builder) -> list[fx.Node]:
    x, w = b.input("x", 8, 16), b.input("w", 16, 16)
    return [b.call(aten.mm.default, b.call(aten.empty_like.default, x), w) for _ in range(2)]


def reduced_by_ranks(b: Builder) -> list[fx.Node]:
    x, w = b.input("x", 8, 16), b.input("w", 16, 16)
    return [b.call(aten.mm.default, b.all_reduce(x), w) for _ in range(2)]


def written(b: Builder) -> list[fx.Node]:
    """What an operation that is not known does with its arguments is not known either."""
    x, w = b.input("x", 8, 16), b.input("w", 16, 16)
    products = []
    for _ in range(2):
        value = b.call(aten.neg.default, x)
        b.graph.call_function(torch.ops.higher_order.triton_kernel_wrapper_mutation, (value,))
        products.append(b.call(aten.mm.default, value, w))
    return products


def returned(b: Builder) -> list[fx.Node]:
    """Two results are two tensors, which the program may write to."""
    x = b.input("x", 8, 16)
    return [b.call(aten.view.default, b.call(aten.neg.default, x), [16, 8]) for _ in range(2)]


def of_both_phases(b: Builder) -> list[fx.Node]:
    x = b.input("x", 8, 16)
    gradient = b.input("tangents_1", 8, 16)
    inside = b.call(aten.mul.Tensor, b.call(aten.neg.default, gradient), 2.0)
    return [b.call(aten.mul.Tensor, b.call(aten.neg.default, x), 2.0), inside]


LEFT: dict[str, tuple[Callable[[Builder], list[fx.Node]], int]] = {
    "other numbers": (of_other_numbers, 2 * 3),  # all but the multiplications
    "other types": (of_other_types, 0),
    "random numbers": (drawn, 0),
    "unwritten memory": (unwritten, 0),
    "written memory": (written, 0),
    "collectives": (reduced_by_ranks, 0),
    "results": (returned, 0),
    "other operands": (of_both_phases, 0),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_not_equal_stays(name: str) -> None:
    make, merged = LEFT[name]
    b = Builder()
    graph = b.output(*make(b), scaled_product(b))
    products = len(graph.find_nodes(op="call_function", target=aten.mm.default))
    assert merge_equal(graph) == merged
    assert len(graph.find_nodes(op="call_function", target=aten.mm.default)) == products
