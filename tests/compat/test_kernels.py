"""What Inductor is told of the kernels of ordered programs, read from what it really generates.

Every test lowers, fuses and generates for a GPU (``gpu_code``), so that it fails if torch renames
anything that ``_compat.kernels`` builds on, or stops asking for it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional as F

from domino_compile import _compat
from domino_compile._compat import kernels
from domino_compile.graph.tags import mark_overlapped, tag_slice
from domino_compile.lowering import kernels as rules
from domino_compile.lowering.kernels import OverlapKernels
from tests.compat.gpu_code import Kernel, captured, kernels_of

pytestmark = pytest.mark.xdist_group("compat")
aten = torch.ops.aten

ROWS = 4096
#: A setting of Inductor's that torch 2.11 has under the same name but with another default.
SEVERAL_STAGES = "triton.mix_order_reduction_allow_multi_stages"


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight)


def layer_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), weight)


def norm_gradients(x: Tensor, weight: Tensor, grad: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """Of the input, a reduction along rows, and of the weight, a reduction over them.

    The statistics come from forward. Torch 2.11 would fuse them with the first reduction only.
    """
    sizes = [x.shape[-1]]
    of_x, of_weight = aten._fused_rms_norm_backward(grad, x, sizes, root, weight, [True, True])
    return of_x, of_weight


def overlapped(module: fx.GraphModule, *slices: int | None) -> fx.GraphModule:
    """Mark a graph as one of ours, and its calls in turn as of these slices."""
    mark_overlapped(module.graph)
    calls = [node for node in module.graph.nodes if node.op == "call_function"]
    for call, index in zip(calls, slices, strict=False):
        if index is not None:
            tag_slice(call, index, call.name)
    return module


def of_norm(width: int, rows: int = ROWS, ours: bool = True, **how: Any) -> Kernel:
    module = captured(norm, (rows, width), (width,))
    (kernel,) = kernels_of(overlapped(module) if ours else module, **how)
    return kernel


@pytest.mark.parametrize("width", [2048, 3500, rules.WIDEST_ROW])
def test_narrow_rows_are_gone_over_once(width: int) -> None:
    assert of_norm(width, ours=False).heuristic == "reduction"
    assert of_norm(width).heuristic == "persistent_reduction"


@pytest.mark.parametrize(
    ("width", "piece", "warps"),
    [(2560, 512, 2), (5120, 1024, 4), (5000, 1024, 4), (12288, 2048, 8)],
)
def test_wide_rows_are_gone_over_in_pieces(width: int, piece: int, warps: int) -> None:
    kernel = of_norm(width)
    assert kernel.heuristic == "fixed_config"
    assert kernel.config == {"XBLOCK": 1, "R0_BLOCK": piece, "num_warps": warps, "num_stages": 1}


@pytest.mark.parametrize(
    "how",
    [
        {"width": 5120, "ours": False},
        {"width": 5120, "rows": rules.LEAST_ROWS - 1},
        {"width": rules.WIDEST_IN_PIECES + 1024},
        {"width": 5120, "settings": {"coordinate_descent_tuning": True}},
        {"width": 4096, "cuda": None},
        {"width": 5120, "cuda": None},
    ],
)
def test_all_other_rows_are_left_to_inductor(how: dict[str, Any]) -> None:
    assert of_norm(**how).heuristic == "reduction"


@pytest.mark.parametrize(
    "setting", [{"triton.persistent_reductions": False}, {"combo_kernels": True}]
)
def test_rows_are_not_kept_where_a_setting_forbids_it(setting: dict[str, Any]) -> None:
    assert of_norm(4096, settings=setting).heuristic != "persistent_reduction"


def test_sums_over_rows_are_left_to_inductor() -> None:
    found = kernels_of(overlapped(captured(lambda x: x.sum(0), (ROWS, 5120))))
    assert found and all(kernel.heuristic != "fixed_config" for kernel in found)


@pytest.mark.parametrize(("slices", "count"), [((None, None), 1), ((0, 0), 1), ((0, 1), 2)])
def test_slices_share_no_kernel(slices: tuple[int | None, ...], count: int) -> None:
    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1, x * 2

    assert len(kernels_of(overlapped(captured(both, (ROWS, 512)), *slices))) == count


@pytest.mark.parametrize(("slices", "count"), [((0, 0), 1), ((0, 1), 2), ((0, None), 1)])
def test_a_slice_is_not_fused_into_what_another_makes_of_it(
    slices: tuple[int | None, ...], count: int
) -> None:
    def chain(x: Tensor) -> Tensor:
        return x.sum(1) * 2

    assert len(kernels_of(overlapped(captured(chain, (ROWS, 512)), *slices))) == count


def test_a_kernel_of_two_slices_keeps_inductors_blocks() -> None:
    """Its operations cannot be told apart where one slice's value is inlined into another's."""
    module = captured(lambda x: (x + 1).sum(1), (ROWS, 5120))
    (kernel,) = kernels_of(overlapped(module, 0, 1))
    assert kernel.heuristic == "reduction"


@pytest.mark.parametrize("ours", [True, False])
def test_variances_of_wide_rows_take_two_steps(ours: bool) -> None:
    module = captured(layer_norm, (ROWS, 8192), (8192,))
    (kernel,) = kernels_of(overlapped(module) if ours else module)
    assert ("welford" in kernel.text) is not ours


@pytest.mark.parametrize(("rows", "width"), [(100, 8192), (ROWS, 512)])
def test_variances_of_few_or_narrow_rows_are_left_to_inductor(rows: int, width: int) -> None:
    module = captured(layer_norm, (rows, width), (width,))
    before = [kernel.heuristic for kernel in kernels_of(module)]
    assert [kernel.heuristic for kernel in kernels_of(overlapped(module))] == before


def gradients(
    rows: int,
    width: int,
    ours: bool = True,
    rows_a_block: Callable[[int], int] | None = lambda rows: 18,
    settings: dict[str, Any] | None = None,
) -> list[Kernel]:
    """The kernels that reduce in both directions."""
    if _compat.inductor_has_option(SEVERAL_STAGES):
        settings = {SEVERAL_STAGES: False} | (settings or {})
    module = captured(norm_gradients, (rows, width), (width,), (rows, width), (rows, 1))
    found = kernels_of(overlapped(module) if ours else module, settings, rows_a_block)
    return [kernel for kernel in found if "RSPLIT_SIZE" in kernel.text]


def test_blocks_of_a_norms_gradients_have_the_rows_they_are_told_and_more_warps() -> None:
    (kernel,) = gradients(8192, 4096)
    expected = {"XBLOCK": 1, "RSPLIT_SIZE": 18, "NUM_STAGES": 1, "num_warps": 16, "num_stages": 1}
    assert kernel.config == expected


@pytest.mark.parametrize(
    "how",
    [
        {"width": 4096, "ours": False},
        {"width": 2560},  # padded to 4096, where more warps only idle
        {"width": 4096, "rows_a_block": None},
    ],
)
def test_other_blocks_of_gradients_keep_inductors_warps(how: dict[str, Any]) -> None:
    (kernel,) = gradients(8192, **how)
    assert kernel.config == {}


def test_a_users_rows_of_a_block_are_kept() -> None:
    (kernel,) = gradients(8192, 4096, settings={kernels.ROWS_A_BLOCK: 32})
    assert kernel.config["RSPLIT_SIZE"] == 32


def test_both_reductions_of_a_square_are_one_kernel() -> None:
    def found() -> list[Kernel]:
        return gradients(4096, 4096, settings={kernels.BOTH_REDUCTIONS: True})

    assert found() == []  # Inductor cannot tell the two apart by their extents
    with _compat.inductor_config().patch({kernels.BOTH_REDUCTIONS: False}):
        _compat.fuse_both_reductions()
    assert len(found()) == 1


@pytest.mark.parametrize(
    ("rows", "ours", "count"), [(1024, True, 0), (1024, False, 1), (2048, True, 1)]
)
def test_both_reductions_of_few_rows_are_two_kernels(rows: int, ours: bool, count: int) -> None:
    with _compat.inductor_config().patch({kernels.BOTH_REDUCTIONS: False}):
        _compat.fuse_both_reductions()
    assert len(gradients(rows, 4096, ours, settings={kernels.BOTH_REDUCTIONS: True})) == count


def test_a_users_heuristics_are_kept_also_where_inductor_has_compiled_before() -> None:
    from torch._inductor.virtualized import V

    def chosen() -> tuple[Any, Any]:
        before = V.choices  # asked for once a thread
        _compat.compile_kernels_by(OverlapKernels())
        _compat.compile_kernels_by(OverlapKernels())
        return before, V.choices

    with ThreadPoolExecutor(1) as pool:
        before, after = pool.submit(chosen).result()
    assert type(after).__mro__[1] is type(before)
