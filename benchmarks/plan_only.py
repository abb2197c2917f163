"""Capture and plan a training step as with Inductor, but compile and run nothing."""

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
from domino_compile.options import Options
from domino_compile.pipeline.contract import Lowering
from domino_compile.pipeline.hints import hints_of
from domino_compile.pipeline.pipeline import Pipeline
from domino_compile.report import new_report

#: Calls the stage of the passes that it is given on a graph.
Around = Callable[[Callable[[fx.Graph], None], fx.Graph], None]
Backend = Callable[[fx.GraphModule, list[Any]], Callable[..., Any]]


class PlannedOnly(Exception):
    """Raised once the plan is made, so that nothing is compiled."""


@contextmanager
def planned_only() -> Iterator[None]:
    """Return a context that ends a call of a program with backend ``plan_only`` after the plan."""
    try:
        yield
    except torch._dynamo.exc.BackendCompilerFailed as error:
        if not isinstance(error.inner_exception, PlannedOnly):
            raise


def planning_backend(options: Options, around: Around, lowering: Lowering) -> Backend:
    """Return a backend for ``torch.compile`` that only plans.

    Args:
        options: the user's options.
        around: calls the stage of the passes that it is given on a graph.
        lowering: what the passes are told about the lowering.
    """

    def backend(gm: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        hints = hints_of(gm, inputs, options)
        passes = Pipeline(new_report(options.describe()), options, hints, lowering)
        return plan_only(passes, gm, inputs, around)

    return backend


def plan_only(
    passes: Pipeline,
    gm: fx.GraphModule,
    inputs: list[Any],
    around: Around,
) -> Callable[..., Any]:
    """Compile with Inductor up to the two graphs, then raise ``PlannedOnly``.

    Args:
        passes: the passes, which plan.
        gm: the captured graph.
        inputs: its inputs.
        around: calls the stage of the passes that it is given on a graph.
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
