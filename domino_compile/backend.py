"""The ``torch.compile`` backend ``domino``: the only module that knows Inductor's configuration.

Two lowerings run the same passes: Inductor (its joint hook and its post-grad hook), and ``eager``,
which runs the rewritten graphs operation by operation through ``functorch.compile``.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import fx

from domino_compile import _compat
from domino_compile.cost.rates import rates_identity
from domino_compile.errors import OptionError, refusal
from domino_compile.graph.tags import mark_overlapped
from domino_compile.lowering.eager import compile_eager
from domino_compile.ops.materialise import materialise
from domino_compile.ops.products import addmm_beside, mm_beside, run_addmm, run_mm
from domino_compile.ops.random_slice import random_slice
from domino_compile.options import Options
from domino_compile.pipeline import Hints, Pipeline
from domino_compile.report import CompileReport, withdrawn_on_error
from domino_compile.report.dump import check_folder
from domino_compile.report.origin import input_path
from domino_compile.report.outcome import tensor_parallel_groups
from domino_compile.runtime.guard import Measuring
from domino_compile.runtime.plan_cache import plan_key
from domino_compile.runtime.rank_check import checked
from domino_compile.runtime.watch import Watching

log = logging.getLogger(__name__)

#: Settings of Inductor that would undo the schedule; switched off where this torch has them.
OFF: Mapping[str, object] = {
    "reorder_for_compute_comm_overlap": False,
    "_micro_pipeline_tp": False,
    "aten_distributed_optimizations.enable_overlap_scheduling": False,
    "aten_distributed_optimizations.enable_simple_overlap": False,
    "bucket_all_reduces_fx": "none",
    "bucket_all_gathers_fx": "none",
    "bucket_reduce_scatters_fx": "none",
}

#: Activations that do not stay in a GPU's cache: Inductor's 5 Mi elements, of two bytes.
LARGE_BYTES = 10 << 20


def domino(
    gm: fx.GraphModule,
    example_inputs: list[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, object] | None = None,
) -> Callable[..., Any]:
    """Compile a captured graph with its tensor-parallel communication under its computation.

    Called by ``torch.compile(model, backend="domino", options={...})``; see ``Options``.
    """
    try:
        chosen = Options.parse(options, mode).with_environment(os.environ)
        if chosen.disable:
            return _compat.compile_with_inductor(gm, example_inputs, _user_settings(chosen))
        hints = make_hints(gm, example_inputs, chosen)
        check_folder(chosen.dump_dir)
        rates = rates_identity()
    except OptionError as error:
        return refusal(error)
    _compat.keep_gradients(gm)
    kept = _compat.copy_of(gm) if chosen.guard == "measure" or chosen.watch else None
    compiled, pipeline = _compile(gm, example_inputs, chosen, hints, rates)
    report, timeout_s = pipeline.report, chosen.check_timeout_s
    if kept is not None and chosen.guard == "measure" and report.status in ("sliced", "reordered"):
        alone = _compile_uncut(_compat.copy_of(kept), example_inputs, chosen)
        compiled = Measuring(compiled, alone, report, pipeline.write, timeout_s)
    if kept is not None and chosen.watch and _can_be_watched(report, example_inputs):

        def again(slower: float, inputs: Sequence[Any]) -> Callable[..., Any]:
            """The program for a link that takes so many times its table's time."""
            found, planned = _compile(
                _compat.copy_of(kept), list(inputs), chosen, hints, rates, slower
            )
            return _checked(found, planned.report, chosen, rates)

        compiled = Watching(compiled, again, report, pipeline.table_us, chosen.watch, timeout_s)
    return _checked(compiled, report, chosen, rates)


def _checked(
    program: Callable[..., Any], report: CompileReport, options: Options, rates: str
) -> Callable[..., Any]:
    """The program, its plan compared between ranks before it first runs."""
    if not options.check_ranks:
        return program
    return checked(program, lambda: report, rates, options.check_timeout_s)


def _can_be_watched(report: CompileReport, example_inputs: Sequence[Any]) -> bool:
    """Whether there is something to plan again, and no dynamic size, which would be lost."""
    sizes = [n for x in example_inputs if isinstance(x, torch.Tensor) for n in x.shape]
    symbols = (torch.SymInt, torch.SymFloat, torch.SymBool)
    return bool(tensor_parallel_groups(report)) and not any(
        isinstance(value, symbols) for value in (*sizes, *example_inputs)
    )


def _compile(
    gm: fx.GraphModule,
    example_inputs: list[Any],
    options: Options,
    hints: Hints,
    rates: str,
    slower: float = 1.0,
) -> tuple[Callable[..., Any], Pipeline]:
    """The program that this package plans, and the pipeline that has planned it."""
    if options.lowering == "eager":
        pipeline = Pipeline(options, hints, pin=False, slower=slower)
        with withdrawn_on_error(pipeline.report):
            return compile_eager(gm, example_inputs, pipeline), pipeline
    identity = pass_identity(options, hints, f"{rates} {slower}")
    key = plan_key(gm, example_inputs, identity) if _compat.caches_enabled() else None
    asked = _user_settings(options)
    pipeline = Pipeline(
        options,
        hints,
        pin=True,
        slower=slower,
        products=not _compat.products_are_inductors(asked),
        copies=bool(asked.get("triton.cudagraphs")),
        plan_key=key,
    )
    settings = inductor_settings(pipeline, identity)
    with withdrawn_on_error(pipeline.report):
        compiled = _compat.compile_with_inductor(gm, example_inputs, settings)
        if not pipeline.recall():
            settings |= _compat.NO_GRAPH_CACHES
            compiled = _compat.compile_with_inductor(gm, example_inputs, settings)
    return compiled, pipeline


def _compile_uncut(
    gm: fx.GraphModule, example_inputs: list[Any], options: Options
) -> Callable[..., Any]:
    """The program that is compiled without this package."""
    if options.lowering == "eager":
        return compile_eager(gm, example_inputs, None)
    return _compat.compile_with_inductor(gm, example_inputs, _user_settings(options))


def make_hints(gm: fx.GraphModule, example_inputs: list[Any], options: Options) -> Hints:
    """What the captured graph tells about its inputs.

    Raises:
        OptionError: if the option ``batch`` names an input that the graph does not have, or a
            dimension that the input does not have.
    """
    parameters = frozenset(_compat.parameter_inputs(gm, example_inputs))
    batch: dict[int, int] = {}
    names = [_compat.input_name(n) for n in gm.graph.find_nodes(op="placeholder")]
    for name, dim in (options.batch or {}).items():
        for position, full in enumerate(names):
            if full in (name, f"L['{name}']") and position < len(example_inputs):
                rank = getattr(example_inputs[position], "ndim", 0)
                if dim >= rank:
                    raise OptionError(
                        f"batch: input {name!r} has {rank} dimensions, got dimension {dim}"
                    )
                batch[position] = dim
    if options.batch and not batch:
        log.info("batch: this graph has none of the inputs %s; inferred", list(options.batch))
    return Hints(batch, parameters, {i: input_path(name) for i, name in enumerate(names) if name})


def inductor_settings(pipeline: Pipeline, identity: str) -> dict[str, Any]:
    """Inductor's options for a pipeline whose passes have an identity for the caches."""
    _compat.register_random_slice_lowering(random_slice)
    _compat.register_materialise_lowering(materialise)
    _compat.register_product_lowerings(mm_beside, addmm_beside, run_mm, run_addmm)
    config = _compat.inductor_config()
    settings: dict[str, Any] = {k: v for k, v in OFF.items() if _compat.inductor_has_option(k)}
    options = pipeline.options
    if options.dump_dir is not None or options.guard == "measure" or options.watch:
        # A compile from a cache has no graphs to show, and may not know whether there is something
        # to be measured or watched, which all ranks must agree on. Kernels may come from theirs.
        settings |= _compat.NO_GRAPH_CACHES
    both = _compat.BOTH_REDUCTIONS
    if _compat.inductor_has_option(both):
        settings[both] = False  # as by default, until a graph is cut
    settings.update(_user_settings(pipeline.options))

    def run_graph(graph: fx.Graph) -> None:
        pipeline.run_graph(graph)
        if pipeline.overlap:
            mark_overlapped(graph)
            _compat.compile_for_overlap(pipeline.rows_a_block)
        if _has_large_slices(pipeline.report) and both not in pipeline.options.inductor:
            _compat.fuse_both_reductions()

    settings["joint_custom_post_pass"] = _compat.graph_pass(
        pipeline.run_joint, f"joint {identity}", config.joint_custom_post_pass
    )
    settings["post_grad_custom_post_pass"] = _compat.graph_pass(
        run_graph, f"graph {identity}", config.post_grad_custom_post_pass
    )
    return settings


def _has_large_slices(report: CompileReport) -> bool:
    """Whether a norm of a slice should be differentiated by one kernel.

    Inductor asks for twice as many rows as columns, which the whole has and a slice may not, and
    for more than what stays in the cache anyway.
    """
    wires = [wire for schedule in report.schedules[-1:] for wire in schedule.wires]
    return any(w.slice is not None and w.bytes >= LARGE_BYTES for w in wires)


def _user_settings(options: Options) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if options.mode != "default":
        settings.update(_compat.mode_options(options.mode))
    settings.update(options.inductor)
    return settings


def pass_identity(options: Options, hints: Hints, rates: str) -> str:
    """What decides the result of our passes, for cache keys: sources, options, hints, rates."""
    known = f"{sorted(hints.batch.items())} {sorted(hints.parameters)}"
    return f"{source_digest()} {options.digest()} {known} {rates}"


@cache
def source_digest() -> str:
    """A hash of the package's own sources and data."""
    hasher = hashlib.sha256(torch.__version__.encode())
    here = Path(__file__).parent
    files = {*here.rglob("*.py"), *(here / "passes").glob("*.py"), *here.rglob("*.json")}
    for path in sorted(files):
        hasher.update(path.relative_to(here).as_posix().encode())
        hasher.update(path.read_bytes())
    return hasher.hexdigest()
