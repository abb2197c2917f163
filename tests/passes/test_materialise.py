"""``materialise``: hard functions of small values are computed once, and the same comes out."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import fx
from torch._inductor.utils import run_and_get_code

from domino_compile import _compat
from domino_compile.backend import domino
from domino_compile.ops.materialise import materialise
from domino_compile.passes import materialise as under_test
from domino_compile.passes.equal import merge_equal
from domino_compile.passes.materialise import materialise_joined, materialise_values
from domino_compile.tools.bench.workload import Step, Workload
from tests.compat.gpu_code import captured, kernels_of
from tests.emitted.harness import fake_world
from tests.passes.graphs import Builder, aten, random_inputs, run

prims = torch.ops.prims
ROWS, PLACES, HEADS, HALF = 16, 128, 16, 32


def angles(b: Builder) -> fx.Node:
    """``(PLACES, 1, HALF)``: of frequencies that are powers themselves."""
    places, steps = b.input("places", PLACES, 1, 1), b.input("steps", 1, 1, HALF)
    return b.call(aten.mul.Tensor, places, b.call(aten.pow.Scalar, 10000.0, steps))


def heads(b: Builder, name: str = "query", rows: int = ROWS) -> fx.Node:
    return b.input(name, rows, PLACES, HEADS, HALF)


def rotary(b: Builder, rows: int = ROWS) -> list[fx.Node]:
    """Queries and keys times cosines and sines of half precision."""
    found, angle = [], angles(b)
    halves = [
        b.call(prims.convert_element_type.default, b.call(function, angle), torch.bfloat16)
        for function in (aten.cos.default, aten.sin.default)
    ]
    for name in ("query", "key"):
        for half in halves:
            seen = b.call(aten.unsqueeze.default, half, 0)
            found.append(b.call(aten.mul.Tensor, heads(b, f"{name}_{half.name}", rows), seen))
    return found


def of_each_row(b: Builder) -> list[fx.Node]:
    """Cosines of positions that differ between rows."""
    cosines = b.call(aten.cos.default, b.input("angles", ROWS, PLACES, 1, HALF))
    return [b.call(aten.mul.Tensor, heads(b), cosines)]


def cast(b: Builder, x: fx.Node, dims: list[int]) -> fx.Node:
    """``x`` in float8, by a scale that is derived as torchao derives it."""
    largest = b.call(aten.amax.default, b.call(aten.abs.default, x), dims, True)
    double = b.call(prims.convert_element_type.default, largest, torch.float64)
    scale = b.call(aten.mul.Tensor, b.call(aten.reciprocal.default, double), 448.0)
    single = b.call(prims.convert_element_type.default, scale, torch.float32)
    power = b.call(aten.floor.default, b.call(aten.log2.default, single))
    by = b.call(aten.exp2.default, power)
    wide = b.call(aten.clamp.default, b.call(aten.mul.Tensor, x, by), -448.0, 448.0)
    return b.call(prims.convert_element_type.default, wide, torch.float8_e4m3fn)


def scales_of_rows_and_columns(b: Builder) -> list[fx.Node]:
    x = b.input("x", ROWS * PLACES, HEADS * HALF)
    return [cast(b, x, [-1]), cast(b, x, [0])]


FOUND: dict[str, tuple[Callable[[Builder], list[fx.Node]], set[str]]] = {
    "rotary": (rotary, {"cos", "sin"}),  # but not the power behind both
    "of each row": (of_each_row, {"cos"}),
    "scales": (scales_of_rows_and_columns, {"exp2", "exp2_1"}),
}


def used_for_its_own_elements(b: Builder) -> list[fx.Node]:
    return [b.call(aten.mul.Tensor, heads(b), b.call(aten.cos.default, heads(b, "key")))]


def used_by_a_product(b: Builder) -> list[fx.Node]:
    table = b.call(aten.cos.default, b.input("angles", HALF, HALF))
    flat = b.call(aten.view.default, heads(b), [-1, HALF])
    return [b.call(aten.mm.default, flat, table)]


def random(b: Builder) -> list[fx.Node]:
    seed = b.call(prims.inductor_seeds.default, 1, torch.device("cpu"))
    drawn = b.call(
        prims.inductor_random.default,
        *([PLACES, 1, HALF], b.call(prims.inductor_lookup_seed.default, seed, 0), "rand"),
    )
    return [b.call(aten.mul.Tensor, heads(b), drawn)]


def scale_of_everything(b: Builder) -> list[fx.Node]:
    return [cast(b, b.input("x", ROWS * PLACES, HEADS * HALF), [0, 1])]


def scale_of_half_precision(b: Builder) -> list[fx.Node]:
    """It is rounded in memory, and not where it stays in registers."""
    x = b.input("x", ROWS * PLACES, HEADS * HALF, dtype=torch.bfloat16)
    largest = b.call(aten.amax.default, x, [-1], True)
    double = b.call(prims.convert_element_type.default, largest, torch.float64)
    scale = b.call(aten.reciprocal.default, double)
    half = b.call(prims.convert_element_type.default, scale, torch.bfloat16)
    return [b.call(aten.mul.Tensor, x, half)]


LEFT: dict[str, Callable[[Builder], list[fx.Node]]] = {
    "few elements": partial(rotary, rows=1),
    "as many elements": used_for_its_own_elements,
    "a product": used_by_a_product,
    "random": random,
    "one scale": scale_of_everything,
    "half precision": scale_of_half_precision,
}


@pytest.mark.parametrize("name", FOUND)
def test_hard_functions_of_small_values_are_marked(name: str) -> None:
    make, expected = FOUND[name]
    b = Builder()
    graph = b.output(*make(b))
    inputs = random_inputs(graph)
    before = run(graph, inputs)
    assert materialise_values(graph) == len(expected)
    graph.lint()
    marked = graph.find_nodes(op="call_function", target=materialise)
    sources = [node.args[0] for node in marked]
    assert {source.name for source in sources} == expected
    assert all(list(source.users) == [node] for source, node in zip(sources, marked, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(run(graph, inputs), before, strict=True))


@pytest.mark.parametrize("name", LEFT)
def test_others_are_left_alone(name: str) -> None:
    b = Builder()
    graph = b.output(*LEFT[name](b))
    before = str(graph)
    assert materialise_values(graph) == 0
    assert str(graph) == before


def joined(dtype: torch.dtype, transposed: bool = True) -> fx.Graph:
    """Two slices of a value, cast and transposed, and joined."""
    b = Builder()
    pieces = []
    for name in ("first", "second"):
        x = b.input(name, ROWS, HALF)
        piece = b.call(prims.convert_element_type.default, x, dtype)
        if transposed:
            piece = b.call(aten.permute.default, piece, [1, 0])
            piece = b.call(aten.clone.default, piece, memory_format=torch.contiguous_format)
        pieces.append(piece)
    return b.output(b.call(aten.cat.default, pieces, 1))


def test_joined_slices_in_float8_are_marked() -> None:
    graph = joined(torch.float8_e4m3fn)
    inputs = random_inputs(graph)
    before = run(graph, inputs)[0]
    assert materialise_joined(graph) == 2
    graph.lint()
    (join,) = graph.find_nodes(op="call_function", target=aten.cat.default)
    assert all(piece.target is materialise for piece in join.args[0])
    after = run(graph, inputs)[0]
    assert torch.equal(before.float(), after.float())
    assert materialise_joined(graph) == 0


def test_other_joined_values_are_left_alone() -> None:
    assert materialise_joined(joined(torch.bfloat16)) == 0
    b = Builder()
    taken = [b.input(name, ROWS, HALF, dtype=torch.float8_e4m3fn) for name in ("first", "second")]
    assert materialise_joined(b.output(b.call(aten.cat.default, taken, 0))) == 0


def casts(*values: torch.Tensor) -> torch.Tensor:
    """A scaled product of values that are cast, transposed and joined."""
    *slices, scale, weight = values
    pieces = [
        (x.float() * scale).to(torch.float8_e4m3fn).t().clone(memory_format=torch.contiguous_format)
        for x in slices
    ]
    one = scale.float().amax()
    factors = torch.cat(pieces, 1), weight.to(torch.float8_e4m3fn).t()
    return torch._scaled_mm(*factors, one, one, out_dtype=torch.bfloat16)


def test_on_a_gpu_each_slice_is_cast_where_it_belongs_in_the_joined_value() -> None:
    _compat.register_materialise_lowering(materialise)
    shapes = (512, 256), (512, 256), (1, 256), (64, 1024)
    before = [k for k in kernels_of(captured(casts, *shapes)) if "fp8" in k.text]
    module = captured(casts, *shapes)
    assert materialise_joined(module.graph) == 2
    after = [k for k in kernels_of(module) if "fp8" in k.text]
    assert len(after) == len(before)  # both slices by one kernel, which is called twice
    assert not any("tl.where" in k.text for k in after)
    assert any("tl.where" in k.text for k in before)


def results(slices: int, **options: Any) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Loss and gradients of a step of a small Llama, and the code of its graphs."""
    torch._dynamo.reset()
    workload = Workload("tiny-llama", 1, 4, 16, 2, dtype="fp32")
    options |= {"slices": slices, "check_ranks": False}
    compiled = partial(torch.compile, backend=domino, options=options)
    found: dict[str, torch.Tensor]
    found, codes = run_and_get_code(
        lambda: Step(workload, dist.group.WORLD, "cpu", compiled).results()
    )
    return found, codes


def functions(codes: list[str]) -> list[int]:
    """How often the graphs' kernels call each function."""
    return [len(re.findall(rf"\b{name}\(", "".join(codes))) for name in ("cos", "sin")]


def test_through_inductor_they_are_computed_once() -> None:
    fake_world()
    plain, many = results(2, disable_passes=("materialise",))
    with mock.patch.object(under_test, "LEAST", 0):
        found, once = results(2)
    assert all(torch.equal(found[name], value) for name, value in plain.items())
    # How often a kernel says it depends on the processor's vectors; equal kernels are there once.
    for few, all_ in zip(functions(once), functions(many), strict=True):
        assert 1 <= few <= all_ / 2


def projections(x: torch.Tensor, *weights: torch.Tensor) -> list[torch.Tensor]:
    """Scaled products of one activation, each with casts of its own."""
    found = []
    for weight in weights:
        factors, scales = [], []
        for value in (x, weight):
            largest = value.abs().amax(-1, keepdim=True).double().clamp(min=1e-12)
            scale = torch.exp2(torch.floor(torch.log2((448.0 / largest).float())))
            wide = (value.float() * scale).clamp(-448.0, 448.0)
            factors.append(wide.to(torch.float8_e4m3fn).view(-1, value.shape[-1]))
            scales.append(scale.view(-1, 1).reciprocal())
        found.append(
            torch._scaled_mm(
                *(factors[0], factors[1].t(), scales[0], scales[1].t()), out_dtype=torch.bfloat16
            )
        )
    return found


def test_on_a_gpu_several_products_take_one_cast() -> None:
    _compat.register_materialise_lowering(materialise)
    written = {}
    for marked in (False, True):
        module = captured(projections, (2, 4096, 4096), *([(512, 4096)] * 3))
        merge_equal(module.graph)
        if marked:
            assert materialise_values(module.graph)
        module.recompile()
        kernels = kernels_of(module)
        written[marked] = sum(kernel.text.count("*fp8e4nv") for kernel in kernels)
    assert written == {False: 3 + 1, True: 1 + 1}  # and that of a weight


def scaled_by_columns(x: torch.Tensor) -> torch.Tensor:
    largest = x.abs().amax(0, keepdim=True).double().clamp(min=1e-12)
    scale = torch.exp2(torch.floor(torch.log2((448.0 / largest).float())))
    return (x.float() * scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn)


def test_on_a_gpu_no_scale_is_computed_for_every_element() -> None:
    _compat.register_materialise_lowering(materialise)
    for marked in (False, True):
        module = captured(scaled_by_columns, (8192, 1024))
        if marked:
            assert materialise_values(module.graph) == 1
        module.recompile()
        casts = [k for k in kernels_of(module) if k.heuristic == "pointwise"]
        assert any("libdevice.log2" in kernel.text for kernel in casts) is not marked
