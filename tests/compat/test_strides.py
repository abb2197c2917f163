"""The layouts of values that Inductor stores for a GPU, by the code that it generates."""

import torch
from torch import fx

from domino_compile import _compat
from domino_compile.graph.new_nodes import new_node
from domino_compile.lowering.factors import fix_factors
from domino_compile.ops.materialise import materialise
from tests.compat.gpu_code import captured, kernels_of

FLOAT8 = torch.float8_e4m3fn


def twice(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Two slices times one float8 weight, which only this graph needs."""
    scale = x.float().abs().max()
    largest = weight.float().abs().amax(1)
    factor = (weight.t().float() * largest).clamp(-448, 448).to(FLOAT8)
    products = [
        torch._scaled_mm(part.to(FLOAT8), factor, scale, scale, out_dtype=torch.bfloat16)
        for part in (x, y)
    ]
    return products[0] + products[1]


def products_of(module: fx.GraphModule) -> list[fx.Node]:
    target = torch.ops.aten._scaled_mm.default
    return list(module.graph.find_nodes(op="call_function", target=target))


def test_a_materialised_factor_keeps_its_strides() -> None:
    """Contiguous, as Inductor stores what it may choose, it is refused: "must be col_major"."""
    module = captured(twice, (32, 64), (32, 64), (16, 64))
    _compat.register_materialise_lowering(materialise)
    factor = products_of(module)[0].all_input_nodes[1]
    with module.graph.inserting_after(factor):
        kept = new_node(module.graph, factor, materialise, (factor,))
    for product in products_of(module):
        product.replace_input_with(factor, kept)
    assert kept.meta["val"].stride() == (1, 64)
    assert len(kernels_of(module)) > 0


def test_factors_of_scaled_products_are_fixed() -> None:
    module = captured(twice, (32, 64), (32, 64), (16, 64))
    assert fix_factors(module.graph) == 3
    assert len(kernels_of(module)) > 0
