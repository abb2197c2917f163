"""What Inductor is told of the kernels of ordered programs, on whatever torch is installed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import sympy
import torch
from torch import fx

from domino_compile import _compat
from domino_compile._compat import kernels
from domino_compile.cost.waves import rows_a_block
from domino_compile.graph.tags import mark_overlapped, tag_slice

pytestmark = pytest.mark.xdist_group("compat")


@pytest.fixture(autouse=True)
def _nvidia(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a build of torch for NVIDIA's GPUs."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")


#: What the heuristics are of a kernel that nobody has said anything about.
AS_INDUCTOR = "as Inductor chooses"


def in_a_new_thread(run: Callable[[], Any]) -> Any:
    """Inductor keeps its heuristics for each thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def test_slices_are_kept_apart_also_where_inductor_has_compiled_before() -> None:
    from torch._inductor.virtualized import V

    def chosen() -> tuple[Any, Any]:
        before = V.choices  # asked for once a thread
        _compat.compile_for_overlap()
        _compat.compile_for_overlap()
        return before, V.choices

    before, after = in_a_new_thread(chosen)
    assert type(after).__mro__[1] is type(before)


def scheduler_node(*slices: int | None, ours: bool = True) -> Any:
    """What stands for a node of Inductor's scheduler that computes parts of these slices."""
    graph = fx.Graph()
    origins = [graph.placeholder(f"x{at}") for at in range(len(slices))]
    if ours:
        mark_overlapped(graph)
    for origin, index in zip(origins, slices, strict=True):
        if index is not None:
            tag_slice(origin, index, "x")
    part = SimpleNamespace(node=SimpleNamespace(get_origins=lambda: origins))
    return SimpleNamespace(get_nodes=lambda: [part])


def kernel_features(
    width: Any,
    slices: tuple[int | None, ...] = (0,),
    hint: str = "INNER",
    reduces: bool = True,
    ours: bool = True,
    ops: tuple[str, ...] = (),
) -> Any:
    """What stands for what Inductor knows of a kernel that reduces rows."""
    from torch._inductor.codegen.simd_kernel_features import SIMDKernelFeatures
    from torch._inductor.runtime.hints import ReductionHint

    assert ReductionHint.INNER.name == "INNER"
    for used in ("contains_op", "is_reduction", "get_reduction_hint", "scheduler_nodes"):
        assert callable(getattr(SIMDKernelFeatures, used))
    return SimpleNamespace(
        is_reduction=lambda: reduces,
        contains_op=lambda name: name in ops,
        get_reduction_hint=lambda: SimpleNamespace(name=hint),
        reduction_numel=width,
        scheduler_nodes=lambda: [scheduler_node(*slices, ours=ours)],
    )


@pytest.mark.parametrize(
    ("width", "others", "once"),
    [
        (4096, {"slices": (1, 1, None)}, True),
        (2048, {}, True),
        (sympy.Integer(kernels.WIDEST_ROW), {}, True),
        (2 * kernels.WIDEST_ROW, {}, False),
        (2560, {}, False),  # padded to 4096, but five pieces of 512
        (3500, {}, True),  # four pieces of 1024 are no less than 4096 either
        (1536, {}, False),
        (4096, {"hint": "OUTER"}, False),
        (4096, {"reduces": False}, False),
        (4096, {"ops": ("scan",)}, False),
        (4096, {"slices": (None,)}, True),
        (4096, {"slices": (0, 1)}, False),
        (4096, {"slices": (None,), "ours": False}, False),
        (sympy.Symbol("s0"), {}, False),
    ],
)
def test_narrow_rows_are_gone_over_once(width: Any, others: dict[str, Any], once: bool) -> None:
    from torch._inductor.choices import InductorChoices
    from torch._inductor.virtualized import V

    features = kernel_features(width, **others)
    config = _compat.inductor_config()

    def asked(inductors: bool, cooperative: bool, **settings: bool) -> bool:
        with (
            config.patch({"triton.persistent_reductions": True} | settings),
            mock.patch.object(
                InductorChoices,
                "should_use_persistent_reduction",
                staticmethod(lambda features, cooperative: inductors),
            ),
        ):
            _compat.compile_for_overlap()
            return bool(V.choices.should_use_persistent_reduction(features, cooperative))

    assert in_a_new_thread(lambda: asked(False, False)) == once
    assert in_a_new_thread(lambda: asked(True, False))  # what Inductor says anyway
    assert not in_a_new_thread(lambda: asked(False, True))
    for settings in ({"triton.persistent_reductions": False}, {"combo_kernels": True}):
        assert not in_a_new_thread(lambda of=settings: asked(False, False, **of))


@pytest.mark.parametrize(
    ("width", "rows", "others", "expected"),
    [
        (5120, 4096, {}, (1024, 4)),
        (sympy.Integer(5120), sympy.Integer(4096), {}, (1024, 4)),
        (2560, 4096, {}, (512, 2)),
        (5000, 4096, {}, (1024, 4)),
        (8192, 4096, {}, (1024, 4)),
        (9216, 4096, {}, (1024, 4)),
        (12288, 4096, {}, (2048, 8)),
        (4096, 4096, {}, AS_INDUCTOR),  # at once
        (5120, kernels.LEAST_ROWS - 1, {}, AS_INDUCTOR),
        (5120, sympy.Symbol("s0"), {}, AS_INDUCTOR),
        (kernels.WIDEST_IN_PIECES + 1024, 4096, {}, AS_INDUCTOR),
        (512, 4096, {}, AS_INDUCTOR),
        (5120, 4096, {"hint": "OUTER"}, AS_INDUCTOR),
        (5120, 4096, {"slices": (None,)}, (1024, 4)),
        (5120, 4096, {"slices": (None,), "ours": False}, AS_INDUCTOR),
        (5120, 4096, {"slices": (0, 1)}, AS_INDUCTOR),
        (5120, 4096, {"settings": {"max_autotune": True}}, AS_INDUCTOR),
        (5120, 4096, {"settings": {"coordinate_descent_tuning": True}}, AS_INDUCTOR),
        (5120, 4096, {"settings": {"triton.multi_kernel": 1}}, AS_INDUCTOR),
        (5120, 4096, {"settings": {"triton.force_cooperative_reductions": True}}, AS_INDUCTOR),
        (5120, 4096, {"kwargs": {"override_persistent_reduction": True}}, AS_INDUCTOR),
        (5120, 4096, {"kwargs": {"mix_order_reduction": True}}, AS_INDUCTOR),
        (5120, 4096, {"groups": {"y": 2}}, AS_INDUCTOR),
        (5120, 4096, {"cuda": None}, AS_INDUCTOR),
    ],
)
def test_wide_rows_are_gone_over_in_pieces(
    width: Any, rows: Any, others: dict[str, Any], expected: Any
) -> None:
    from torch._inductor.choices import InductorChoices
    from torch._inductor.virtualized import V

    about = {name: others[name] for name in ("hint", "slices", "ours") if name in others}
    features, config = kernel_features(width, **about), _compat.inductor_config()
    groups = {"x": rows, "r0_": width, **others.get("groups", {})}
    given = {"features": features, **others.get("kwargs", {})}
    wide = staticmethod(lambda features, cooperative: False)

    def asked() -> dict[str, Any]:
        with (
            config.patch(others.get("settings", {})),
            mock.patch.object(torch.version, "cuda", others.get("cuda", "13.0")),
            mock.patch.object(InductorChoices, "should_use_persistent_reduction", wide),
        ):
            _compat.compile_for_overlap()
            return V.choices.triton_kernel_kwargs(Any, features, [groups], dict(given))  # type: ignore[arg-type,list-item]

    found = in_a_new_thread(asked)
    fixed = found.pop("fixed_config", None)
    assert found == given
    if expected == AS_INDUCTOR:
        assert fixed is None
    else:
        piece, warps = expected
        one_row = {"XBLOCK": 1, "R0_BLOCK": piece, "num_warps": warps, "num_stages": 1}
        assert fixed.config == one_row


@pytest.mark.parametrize(
    ("slices", "rows", "columns", "users", "used"),
    [
        ((1, None), 4096, 4096, None, 18),
        ((1,), 4096, 4096, 32, 32),
        ((1,), 4096, 256, None, None),
        ((1,), sympy.Symbol("s0"), 4096, None, None),
        ((None,), 4096, 4096, None, 18),
        ((), 4096, 4096, None, None),  # not ours
        ((0, 1), 4096, 4096, None, None),
    ],
)
def test_rows_a_block_of_a_norm(
    slices: tuple[int | None, ...], rows: Any, columns: int, users: int | None, used: int | None
) -> None:
    from torch._inductor.codegen.simd import SIMDScheduling
    from torch._inductor.scheduler import MixOrderReduction

    name = "_codegen_mix_order_reduction"
    config, found = _compat.inductor_config(), []

    def generate(self: Any, node1: Any, node2: Any) -> None:
        found.append(config.triton.mix_order_reduction_split_size)

    def compiled() -> None:
        with (
            config.patch({kernels.ROWS_A_BLOCK: users}),
            mock.patch.object(SIMDScheduling, name, generate),
            mock.patch.object(MixOrderReduction, "get_numel_rnumel", lambda node: (rows, columns)),
        ):
            _compat.compile_for_overlap(partial(rows_a_block, multiprocessors=116))
            _compat.compile_for_overlap(partial(rows_a_block, multiprocessors=116))
            getattr(SIMDScheduling, name)(None, scheduler_node(*slices), scheduler_node(*slices))
            assert config.triton.mix_order_reduction_split_size == users

    in_a_new_thread(compiled)
    assert found == [used]


@pytest.mark.parametrize(
    ("width", "others", "more"),
    [
        (4096, {}, True),
        (5120, {"rows": 36}, True),
        (2560, {}, False),
        (sympy.Symbol("s0"), {}, False),
        (4096, {"slices": (None,)}, True),
        (4096, {"slices": (0, 1)}, False),
        (4096, {"ours": False}, False),
        (4096, {"rows": None}, False),  # not what a block of ours takes
        (4096, {"rows": 64}, False),
        (4096, {"both": False}, False),
        (4096, {"settings": {"max_autotune": True}}, False),
        (4096, {"settings": {"triton.use_block_ptr": True}}, False),
        (4096, {"settings": {"triton.mix_order_reduction_allow_multi_stages": True}}, False),
    ],
)
def test_blocks_of_a_wide_norm_have_more_warps(
    width: Any, others: dict[str, Any], more: bool
) -> None:
    from torch._inductor.codegen.triton import TritonScheduling

    rows = others.get("rows", 18)
    features = kernel_features(width, others.get("slices", (0,)), ours=others.get("ours", True))
    kernel = SimpleNamespace(fixed_config=None)
    several = "triton.mix_order_reduction_allow_multi_stages"
    settings = {kernels.ROWS_A_BLOCK: rows} | others.get("settings", {})
    if _compat.inductor_has_option(several):
        settings = {several: False} | settings

    def compiled() -> Any:
        name = "create_kernel_choices"
        with (
            _compat.inductor_config().patch(settings),
            mock.patch.object(TritonScheduling, name, lambda self, *args: [kernel]),
        ):
            _compat.compile_for_overlap()
            _compat.compile_for_overlap()
            kwargs = {"mix_order_reduction": others.get("both", True)}
            return getattr(TritonScheduling, name)(None, features, [], kwargs)

    assert in_a_new_thread(compiled) == [kernel]
    if more:
        assert kernel.fixed_config.config == {
            "XBLOCK": 1,
            "RSPLIT_SIZE": rows,
            "NUM_STAGES": 1,
            "num_warps": 16,
            "num_stages": 1,
        }
    else:
        assert kernel.fixed_config is None


@pytest.mark.parametrize(
    ("size", "axis", "others", "two"),
    [
        ((4, 1024, 4096), [2], {}, True),
        ((4, 1024, 4096), [-1], {}, True),
        ((4096, 4096), 1, {}, True),
        ((sympy.Integer(4096), sympy.Integer(5120)), [1], {}, True),
        ((4, 1024, 512), [2], {}, False),
        ((4, 100, 4096), [2], {}, False),
        ((4, 1024, 4096), [1], {}, False),
        ((4, 1024, 4096), [1, 2], {}, False),
        ((4, 1024, 4096), None, {}, False),
        ((), [0], {}, False),
        ((), [-1], {"ours": False}, False),
        ((sympy.Symbol("s0"), 1024, 4096), [2], {}, False),
        ((4, 1024, 4096), [2], {"device": "cpu"}, False),
        ((4, 1024, 4096), [2], {"ours": False}, False),
        ((4, 1024, 4096), [2], {"ours": False, "inductors": True}, True),
    ],
)
def test_variances_of_rows_are_computed_in_two_steps(
    size: tuple[Any, ...], axis: Any, others: dict[str, Any], two: bool
) -> None:
    from torch._inductor import lowering
    from torch._inductor.virtualized import V

    name = "use_two_step_variance"
    graph = fx.Graph()
    node = graph.placeholder("x")
    if others.get("ours", True):
        mark_overlapped(graph)
    value = SimpleNamespace(
        get_size=lambda: list(size), get_device=lambda: torch.device(others.get("device", "cuda"))
    )

    def asked(*newer: Any) -> bool:
        def inductors(x: Any, axis: Any, keepdim: bool, *more: Any) -> bool:
            assert more == newer
            return bool(others.get("inductors", False))

        handler = V.set_graph_handler(SimpleNamespace(current_node=node))  # type: ignore[arg-type]
        with mock.patch.object(lowering, name, inductors), handler:
            _compat.compile_for_overlap()
            _compat.compile_for_overlap()
            return bool(getattr(lowering, name)(value, axis, True, *newer))

    assert in_a_new_thread(asked) == two
    assert in_a_new_thread(lambda: asked(torch.float32)) == two  # torch 2.13 and newer


def test_both_reductions_of_a_square_are_told_apart() -> None:
    from torch._inductor.scheduler import MixOrderReduction

    config = _compat.inductor_config()
    rows, columns = "rows", "columns"
    contiguous = {rows: True, columns: False}
    with (
        config.patch({kernels.BOTH_REDUCTIONS: False}),
        mock.patch.object(MixOrderReduction, "get_numel_rnumel", lambda node: (64, 64)),
        mock.patch.object(MixOrderReduction, "is_contiguous_node", contiguous.__getitem__),
    ):
        both = MixOrderReduction.has_mix_reduction_orders
        assert not both(rows, columns)
        _compat.fuse_both_reductions()
        both = MixOrderReduction.has_mix_reduction_orders
        assert both(rows, columns) and both(columns, rows)
        assert not both(rows, rows) and not both(columns, columns)
