"""On a GPU: what is measured of a variant does not depend on those before it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from domino_compile._compat import kernels
from domino_compile._compat.config import inductor_config
from domino_compile.lowering.kernels import WARPS_OF_MANY
from domino_compile.tools.bench.recording import AS_A_WHOLE, recorded
from domino_compile.tools.bench.run import Plan, run
from domino_compile.tools.bench.variants import Variant
from domino_compile.tools.bench.workload import Step, Workload
from domino_compile.tools.bench.world import Place, open_world

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def test_memory_is_not_that_of_variants_before() -> None:
    # Large weights and few tokens: gradients are most of it.
    workload = Workload("llama2-7b", 1, 1, 128, 2)
    variants = [Variant("inductor"), Variant("free"), Variant("domino", 1)]
    place = Place("cuda", "h200-nvlink-8")
    result = run(workload, Plan(variants, rounds=1), place, "", lambda *_: None)
    first, *others = (variant.peak_mib for variant in result.variants)
    assert first is not None and None not in others
    # The first also pays for what libraries keep.
    assert max(other or 0.0 for other in others) < 1.05 * first


def test_a_whole_step_is_recorded_as_one_graph() -> None:
    with open_world(Place("cuda", "h200-nvlink-8"), 2) as world:
        world.choose(free=True)
        group, variant = world.group_for(True), Variant("free")
        step = Step(Workload("llama2-7b", 1, 1, 128, 2), group, "cuda", variant.compile)
        exact = step.results()
        run_again, note = recorded(step)
        assert note == AS_A_WHOLE
        for _ in range(2):
            run_again()
        torch.cuda.synchronize()
        assert all(parameter.grad is None for parameter in step.model.parameters())
        again = step.results()
    assert all(torch.equal(exact[name], again[name]) for name in exact)


@pytest.mark.parametrize(
    ("style", "ac", "granularity"),
    [("sp", "full", "block"), ("megatron-sp", "selective", "whole"), ("dtensor", "none", "block")],
)
def test_gradients_of_recorded_steps_are_judged(style: str, ac: str, granularity: str) -> None:
    """Of steps that are replayed from CUDA graphs, several of them for each block."""
    workload = Workload("llama3-8b", 2, 2, 1024, 8, style=style, ac=ac, granularity=granularity)
    variants = [Variant("inductor"), Variant("domino", 2), Variant("free")]
    place = Place("cuda", "h200-nvlink-8")
    result = run(workload, Plan(variants, rounds=1, float64=True), place, "", lambda *_: None)
    alone, ours, _ = result.variants
    assert ours.status == "sliced"
    assert alone.grad_error_float64 is not None and 0 < alone.grad_error_float64 < 0.05
    assert ours.grad_passes, (ours.grad_worst, ours.grad_error_ratio)


@pytest.mark.parametrize(
    ("model", "batch", "piece"), [("gpt3-2.7b", 2, 512), ("gpt3-13b", 8, 1024)]
)
def test_wide_rows_are_gone_over_in_pieces_and_gradients_are_as_exact(
    model: str, batch: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[tuple[int, dict[str, int]]] = []
    fixed: Any = kernels._fixed

    def note(warps: int, **blocks: int) -> Any:
        chosen.append((warps, blocks))
        return fixed(warps, **blocks)

    monkeypatch.setattr(kernels, "_fixed", note)
    workload = Workload(model, 1, batch, 1024, 8, dropout=0.1)
    variants = [Variant("inductor"), Variant("domino", 2)]
    place = Place("cuda", "h200-nvlink-8")
    with torch._inductor.config.patch(force_disable_caches=True):
        plan = Plan(variants, rounds=1, float64=True)
        result = run(workload, plan, place, "", lambda *_: None)
    ours = result.variants[1]
    assert ours.grad_passes, (ours.grad_worst, ours.grad_error_ratio)
    assert {"XBLOCK": 1, "R0_BLOCK": piece} in [blocks for _, blocks in chosen]
    pipelined = getattr(inductor_config().triton, kernels.OTHER_KERNELS[-1], False)
    both_ways = {warps for warps, blocks in chosen if "RSPLIT_SIZE" in blocks}
    # Slices of 4096 rows are enough for Inductor to reduce in both directions in one kernel.
    assert both_ways == ({WARPS_OF_MANY} if batch == 8 and not pipelined else set())
