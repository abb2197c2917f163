"""``accumulate``: sums of products in front of collectives go into the products, nothing else."""

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import fx
from torch.distributed.tensor import DTensor

from domino_compile.backend import domino
from domino_compile.passes import accumulate
from domino_compile.passes.accumulate import Accumulated, accumulate_products
from domino_compile.pipeline.order import ACCUMULATE
from domino_compile.tools.bench.gradients import errors, worst
from domino_compile.tools.bench.workload import Step, Workload
from tests.emitted.harness import fake_world
from tests.passes.forced import wanted_always
from tests.passes.graphs import Builder, aten, random_inputs, run, same

BF16 = torch.bfloat16


def products(b: Builder, count: int, dtype: torch.dtype = BF16, added: bool = False) -> list[Any]:
    """As many products of the same shape, seen as ``(2, 3, 8)``."""
    found = []
    for number in range(count):
        grad = b.input(f"tangents_{number}", 6, 4, dtype=dtype)
        weight = b.input(f"weight_{number}", 4, 8, dtype=dtype)
        if added and not number:
            bias = b.input("bias", 8, dtype=dtype)
            product = b.call(aten.addmm.default, bias, grad, weight)
        else:
            product = b.call(aten.mm.default, grad, weight)
        found.append(b.call(aten.view.default, product, [2, 3, 8]))
    return found


def add(b: Builder, *terms: Any, **kwargs: Any) -> fx.Node:
    return b.call(aten.add.Tensor, *terms, **kwargs)


def qkv(b: Builder) -> list[fx.Node]:
    value, key, query = products(b, 3)
    return [b.all_reduce(add(b, add(b, value, key), query))]


def nested_right(b: Builder) -> list[fx.Node]:
    value, key, query = products(b, 3)
    return [b.all_reduce(add(b, value, add(b, key, query)))]


def biased(b: Builder) -> list[fx.Node]:
    first, second = products(b, 2, added=True)
    return [b.all_reduce(add(b, first, second))]


def biased_last(b: Builder) -> list[fx.Node]:
    first, second = products(b, 2, added=True)
    return [b.all_reduce(add(b, second, first))]


def viewed(b: Builder) -> list[fx.Node]:
    total = b.call(aten.view.default, add(b, *products(b, 2)), [6, 8])
    scattered = b.call(
        torch.ops._c10d_functional.reduce_scatter_tensor.default, total, "sum", 1, "tp"
    )
    return [b.call(torch.ops._c10d_functional.wait_tensor.default, scattered)]


ACCUMULATED: dict[str, tuple[Callable[[Builder], list[fx.Node]], int]] = {
    "q, k and v": (qkv, 2),
    "nested to the right": (nested_right, 2),
    "one has a bias": (biased, 1),
    "the last has a bias": (biased_last, 1),
    "viewed, scattered": (viewed, 1),
}


def used_elsewhere(b: Builder) -> list[fx.Node]:
    first, second = products(b, 2)
    return [b.all_reduce(add(b, first, second)), b.call(aten.relu.default, second)]


def sum_used_elsewhere(b: Builder) -> list[fx.Node]:
    total = add(b, *products(b, 2))
    return [b.all_reduce(total), b.call(aten.relu.default, total)]


def full_precision(b: Builder) -> list[fx.Node]:
    return [b.all_reduce(add(b, *products(b, 2, torch.float32)))]


def no_product(b: Builder) -> list[fx.Node]:
    (product,) = products(b, 1)
    return [b.all_reduce(add(b, product, b.input("x", 2, 3, 8, dtype=BF16)))]


def two_with_bias(b: Builder) -> list[fx.Node]:
    first, _ = products(b, 2, added=True)
    grad, weight = b.input("grad", 6, 4, dtype=BF16), b.input("weight", 4, 8, dtype=BF16)
    second = b.call(aten.addmm.default, b.input("other", 8, dtype=BF16), grad, weight)
    return [b.all_reduce(add(b, first, b.call(aten.view.default, second, [2, 3, 8])))]


def broadcast(b: Builder) -> list[fx.Node]:
    first, _ = products(b, 2)
    row = b.call(aten.mm.default, b.input("a", 1, 4, dtype=BF16), b.input("w", 4, 8, dtype=BF16))
    return [b.all_reduce(add(b, first, row))]


def no_collective(b: Builder) -> list[fx.Node]:
    return [add(b, *products(b, 2))]


REFUSED: dict[str, Callable[[Builder], list[fx.Node]]] = {
    "a product is used elsewhere": used_elsewhere,
    "the sum is used elsewhere": sum_used_elsewhere,
    "scaled": lambda b: [b.all_reduce(add(b, *products(b, 2), alpha=2))],
    "float32": full_precision,
    "one is no product": no_product,
    "both have a bias": two_with_bias,
    "one is broadcast": broadcast,
    "doubled": lambda b: [b.all_reduce(add(b, *(products(b, 1) * 2)))],
    "no collective": no_collective,
}


@pytest.mark.parametrize("name", ACCUMULATED)
def test_sums_go_into_products(name: str) -> None:
    make, sums = ACCUMULATED[name]
    b = Builder()
    graph = b.output(*make(b))
    inputs = random_inputs(graph)
    expected = run(graph, inputs)
    types = {n.name: n.meta["val"].dtype for n in graph.nodes if "val" in n.meta}
    assert len(accumulate_products(graph)) == sums
    graph.lint()
    assert not graph.find_nodes(op="call_function", target=aten.add.Tensor)
    assert same(run(graph, inputs), expected)
    assert {types.get(n.name, BF16) for n in graph.nodes if n.op != "output"} == {BF16}
    assert not accumulate_products(graph)


@pytest.mark.parametrize("name", REFUSED)
def test_other_sums_are_left_alone(name: str) -> None:
    b = Builder()
    graph = b.output(*REFUSED[name](b))
    before = str(graph)
    assert not accumulate_products(graph)
    assert str(graph) == before


def results(step: Callable[..., Step], **options: Any) -> dict[str, torch.Tensor]:
    """The gradients of a step that is compiled with such options."""
    torch._dynamo.reset()
    made = step(partial(torch.compile, backend=domino, options=options))
    generator = torch.Generator().manual_seed(0)
    for parameter in made.model.parameters():  # a lone rank may not have got DTensors' values
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        local.detach().normal_(std=0.1, generator=generator)
    found = made.results()
    return found


@pytest.mark.parametrize(("style", "slices"), [("megatron", 1), ("dtensor", 3)])
def test_gradients_of_a_step_are_the_same(style: str, slices: int) -> None:
    fake_world()
    workload = Workload("tiny-llama", 1, 3, 16, 2, style=style, dtype="fp32")
    step = partial(Step, workload, dist.group.WORLD, "cpu", exact=True)
    options = {"lowering": "eager", "slices": slices, "check_ranks": False}
    sums: list[int] = []

    def counted(graph: fx.Graph) -> Accumulated:
        found = accumulate_products(graph)
        sums.append(len(found))
        return found

    with (
        mock.patch.object(accumulate, "HALVES", (torch.float64,)),
        mock.patch.object(accumulate, "accumulate_products", counted),
        wanted_always(ACCUMULATE),
    ):
        found = results(step, **options)
    assert sums == [3]  # two for q, k and v, one for gate and up
    assert worst(errors(found, results(step, **options | {"slices": 1}))) < 1e-12
