"""Capture and plan a training step as under Inductor, but compile and run nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from functorch.compile import min_cut_rematerialization_partition
from torch import fx
from torch._inductor.custom_graph_pass import CustomPartitionerFn

from domino_compile import _compat
from domino_compile.lowering.inductor import inductor_settings
from domino_compile.pipeline.pipeline import Pipeline


class PlannedOnly(Exception):
    """The plan is made, and nothing is compiled."""


@contextmanager
def planned_only() -> Iterator[None]:
    """Around the call of a program whose backend is ``plan_only``: it ends with the plan."""
    try:
        yield
    except torch._dynamo.exc.BackendCompilerFailed as error:
        if not isinstance(error.inner_exception, PlannedOnly):
            raise


def plan_only(
    passes: Pipeline,
    gm: fx.GraphModule,
    inputs: list[Any],
    around: Callable[[Callable[[fx.Graph], None], fx.Graph], None],
) -> Callable[..., Any]:
    """A backend that goes with Inductor as far as the two graphs, then raises ``PlannedOnly``.

    Args:
        passes: plans.
        gm: the captured graph.
        inputs: its inputs.
        around: calls what it is given, a stage of the passes, on a graph.
    """
    run_joint = passes.run_joint

    class Partition(CustomPartitionerFn):
        def __call__(self, joint: fx.GraphModule, joint_inputs: Any, **kwargs: Any) -> Any:
            for part in min_cut_rematerialization_partition(joint, joint_inputs, **kwargs):
                around(passes.run_graph, part.graph)
            raise PlannedOnly

        def uuid(self) -> Any:
            return None

    with mock.patch.object(passes, "run_joint", lambda graph: around(run_joint, graph)):
        settings = inductor_settings(passes, "planned only")
    settings["custom_partitioner_fn"] = Partition()
    return _compat.compile_with_inductor(gm, inputs, settings)
