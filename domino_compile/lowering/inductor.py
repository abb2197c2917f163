"""The Inductor lowering, and the only module that knows which Inductor settings it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx

from domino_compile import _compat
from domino_compile.graph.tags import mark_overlapped
from domino_compile.lowering.factors import fix_factors
from domino_compile.lowering.kernels import OverlapKernels
from domino_compile.ops.materialise import materialise
from domino_compile.ops.products import addmm_beside, mm_beside, run_addmm, run_mm
from domino_compile.ops.random_slice import random_slice
from domino_compile.ops.tokens import all_to_all_tokens
from domino_compile.options import Options
from domino_compile.passes.hold import hold_asynchronous
from domino_compile.pipeline.contract import Lowering
from domino_compile.pipeline.emission import accepts, examine
from domino_compile.pipeline.pipeline import Pipeline
from domino_compile.report import CompileReport
from domino_compile.transport.ops import register_lowerings

#: Inductor settings that would undo the schedule. They are switched off if this torch has them.
OFF: Mapping[str, object] = {
    "reorder_for_compute_comm_overlap": False,
    "_micro_pipeline_tp": False,
    "aten_distributed_optimizations.enable_overlap_scheduling": False,
    "aten_distributed_optimizations.enable_simple_overlap": False,
    "bucket_all_reduces_fx": "none",
    "bucket_all_gathers_fx": "none",
    "bucket_reduce_scatters_fx": "none",
}

#: The size of activations that do not stay in a GPU's cache: Inductor's 5 Mi elements of two bytes.
LARGE_BYTES = 10 << 20


def inductor_alone(
    gm: fx.GraphModule, example_inputs: Sequence[Any], options: Options
) -> Callable[..., Any]:
    """Compile a program without this package."""
    return _compat.compile_with_inductor(gm, example_inputs, user_settings(options))


def inductor_lowering(options: Options) -> Lowering:
    """Return what the passes must know about Inductor under a user's options."""
    asked = user_settings(options)
    return Lowering(
        fuses=True,
        products=not _compat.products_are_inductors(asked),
        copies_inputs=bool(asked.get("triton.cudagraphs")),
    )


def compile_planned(
    gm: fx.GraphModule, example_inputs: Sequence[Any], pipeline: Pipeline, identity: str
) -> Callable[..., Any]:
    """Return the program that a pipeline plans, compiled now or taken from a cache.

    Args:
        gm: The captured graph.
        example_inputs: The graph's example inputs.
        pipeline: The pipeline that plans it.
        identity: Everything that decides the pipeline's result, for cache keys.
    """
    # The identity includes the plan's key, so that a graph from Inductor's cache has a kept plan.
    settings = inductor_settings(pipeline, f"{identity} {pipeline.plan_key}")
    compiled = _compat.compile_with_inductor(gm, example_inputs, settings)
    if not pipeline.recall():
        pipeline.start_again()
        settings |= _compat.NO_GRAPH_CACHES
        compiled = _compat.compile_with_inductor(gm, example_inputs, settings)
    return compiled


def user_settings(options: Options) -> dict[str, Any]:
    """Return the Inductor settings for the user's options."""
    settings: dict[str, Any] = {}
    if options.mode != "default":
        settings.update(_compat.mode_options(options.mode))
    settings.update(options.inductor)
    return settings


def inductor_settings(pipeline: Pipeline, identity: str) -> dict[str, Any]:
    """Return Inductor's settings for a pipeline whose passes have a cache identity."""
    _register_operators()
    _compat.accept_loaded(accepts)
    config = _compat.inductor_config()
    settings: dict[str, Any] = {k: v for k, v in OFF.items() if _compat.inductor_has_option(k)}
    options = pipeline.options
    shown = options.dump_dir is not None or options.guard == "measure" or options.watch
    if shown or pipeline.left_because:
        # A compile from a cache has no graphs to show, and may not know whether to measure or
        # watch, which all ranks must agree on. A graph that is left uncut now because ranks differ
        # should not be left uncut forever. Kernels may still come from their cache.
        settings |= _compat.NO_GRAPH_CACHES
    both = _compat.BOTH_REDUCTIONS
    if _compat.inductor_has_option(both):
        settings[both] = False  # the default, until a graph is cut
    settings.update(user_settings(options))

    checked = options.verify != "off"

    def run_graph(graph: fx.Graph) -> None:
        fix_factors(graph)
        part = pipeline.run_graph(graph)
        if part.overlap:
            mark_overlapped(graph)
            _compat.compile_kernels_by(OverlapKernels(part.facts.rows_a_block))
            if checked:
                examine(part, graph)
        else:
            hold_asynchronous(graph)
        if _has_large_slices(part.report) and both not in options.inductor:
            _compat.fuse_both_reductions()

    settings["joint_custom_post_pass"] = _compat.graph_pass(
        pipeline.run_joint, f"joint {identity}", config.joint_custom_post_pass
    )
    settings["post_grad_custom_post_pass"] = _compat.graph_pass(
        run_graph, f"graph {identity}", config.post_grad_custom_post_pass, looks_at_code=checked
    )
    return settings


def _register_operators() -> None:
    """Register our operators with Inductor, before any compile, even one from a cache."""
    _compat.register_random_slice_lowering(random_slice)
    _compat.register_materialise_lowering(materialise)
    register_lowerings()
    _compat.register_collective_lowerings((all_to_all_tokens,), {}, not_reused=())
    _compat.register_product_lowerings(mm_beside, addmm_beside, run_mm, run_addmm)


def _has_large_slices(report: CompileReport) -> bool:
    """Return whether one kernel should compute all gradients of a slice's norm.

    Inductor itself does so only with twice as many rows as columns, which a slice may not have
    although the whole value does, and only for values that do not stay in the cache.
    """
    wires = [wire for schedule in report.schedules[-1:] for wire in schedule.wires]
    return any(w.slice is not None and w.bytes >= LARGE_BYTES for w in wires)
