"""The eager lowering, which runs the rewritten graphs one operation at a time.

It uses ``functorch.compile``, with the same capture and the same passes as with Inductor but
without code generation. It is meant for debugging and for fast numerics tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from functorch.compile import (
    aot_module_simplified,
    make_boxed_func,
    min_cut_rematerialization_partition,
)
from torch import fx

from domino_compile import _compat
from domino_compile._compat.operators import c10d
from domino_compile.pipeline.pipeline import Pipeline
from domino_compile.transport.ops import without_results

#: Collectives that accept only contiguous payloads in torch 2.11.
CONTIGUOUS = (
    c10d.all_gather_into_tensor.default,
    c10d.all_gather_into_tensor_coalesced.default,
    c10d.all_to_all_single.default,
    c10d.reduce_scatter_tensor.default,
    c10d.reduce_scatter_tensor_coalesced.default,
)


def compile_eager(
    gm: fx.GraphModule, example_inputs: list[Any], pipeline: Pipeline | None
) -> Callable[..., Any]:
    """Capture forward and backward, rewrite them if there is a pipeline, and run them eagerly."""

    def partition(
        joint: fx.GraphModule, joint_inputs: Sequence[Any], **kwargs: Any
    ) -> tuple[fx.GraphModule, fx.GraphModule]:
        if pipeline is not None:
            pipeline.run_joint(joint.graph)
            joint.recompile()
        forward, backward = min_cut_rematerialization_partition(joint, joint_inputs, **kwargs)
        return forward, backward

    def run(graph_module: fx.GraphModule, _inputs: Sequence[Any]) -> Callable[..., Any]:
        for module in _with_regions(graph_module):
            if pipeline is not None:
                pipeline.run_graph(module.graph)
            without_results(module.graph)
            _allow_any_strides(module.graph)
            module.recompile()
        boxed: Callable[..., Any] = make_boxed_func(graph_module.forward)
        return boxed

    def run_inference(graph_module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        if pipeline is not None:
            for module in _with_regions(graph_module):
                pipeline.run_joint(module.graph)
        return run(graph_module, inputs)

    def captured(flat: fx.GraphModule, flat_inputs: list[Any]) -> Callable[..., Any]:
        compiled: Callable[..., Any] = aot_module_simplified(
            flat,
            flat_inputs,
            fw_compiler=run,
            bw_compiler=run,
            inference_compiler=run_inference,
            partition_fn=partition,
            decompositions=_compat.inductor_decompositions(),
        )
        return compiled

    return _compat.with_flat_inputs(gm, example_inputs, captured)


def _with_regions(graph_module: fx.GraphModule) -> list[fx.GraphModule]:
    """Return the graphs of nested regions, each once, and then the graph that calls them."""
    modules = [m for m in graph_module.modules() if isinstance(m, fx.GraphModule)]
    return [*modules[1:], modules[0]]


def _allow_any_strides(graph: fx.Graph) -> None:
    """Turn views into reshapes, because strides can differ from the captured graph's.

    A slice may be contiguous although the uncut value was transposed, and some operations return
    strides that differ from their metadata. Inductor makes a copy if a view needs one, and so must
    this lowering. In torch 2.11 some collectives need one too.
    """
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
        node.target = torch.ops.aten.reshape.default
    for target in CONTIGUOUS:
        for node in graph.find_nodes(op="call_function", target=target):
            first: Any = node.args[0]
            for payload in first if isinstance(first, (list, tuple)) else (first,):
                with graph.inserting_before(node):
                    whole = graph.call_method("contiguous", (payload,))
                node.replace_input_with(payload, whole)
