"""Runs a program's joint graph before and after the passes, without Dynamo and AOTAutograd.

A program through ``torch.compile`` takes seconds, most of them in torch. Here forward and backward
are traced at once into the graph that the passes get; it is run as it is, cut, and
cut and scheduled. Checkpointed parts are not computed again in such a graph, and programs that
change a buffer or an input cannot be captured this way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from domino_compile import _compat
from domino_compile.lowering.eager import _allow_any_strides
from domino_compile.options import Options
from domino_compile.pipeline.contract import Lowering
from domino_compile.pipeline.hints import Hints
from domino_compile.pipeline.pipeline import Pipeline
from domino_compile.report import CompileReport
from tests.property.programs import Program, _norm


@dataclass(frozen=True)
class Joint:
    """A captured program.

    Attributes:
        module: Its joint graph.
        given: What the graph is called with: parameters, buffers and inputs; gradients of outputs.
        parameters: How many of them are parameters or buffers.
    """

    module: fx.GraphModule
    given: list[torch.Tensor]
    parameters: int

    def run(self) -> list[torch.Tensor]:
        """Run the graph; return all that it computes."""
        with torch.no_grad():
            results = self.module(*(x.clone() for x in self.given))
        return [x for x in results if isinstance(x, torch.Tensor)]


def capture(program: Program) -> Joint:
    """Trace forward and backward of a program into one graph."""
    with mock.patch.object(Program, "recomputed", staticmethod(_at_once)):
        module = program.module()
    torch.manual_seed(1)
    inputs = [x.make(torch.float64) for x in program.inputs]
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    primals = [x.detach() for x in (*state.values(), *inputs)]
    needs = [x.requires_grad and program.training for x in (*state.values(), *inputs)]
    tangents: list[torch.Tensor] = []

    def joint(primals: Sequence[torch.Tensor], tangents: list[torch.Tensor]) -> list[Any]:
        leaves = [x.detach().requires_grad_(y) for x, y in zip(primals, needs, strict=True)]
        named = dict(zip(state, leaves, strict=False))
        outputs = torch.func.functional_call(module, named, tuple(leaves[len(state) :]))
        ends = [x for x in outputs if x.requires_grad]
        if not tangents:
            tangents += [torch.randn(x.shape, dtype=x.dtype) for x in ends]
        wanted = [x for x in leaves if x.requires_grad]
        grads: Sequence[Any] = ()
        if ends and wanted:
            grads = torch.autograd.grad(ends, wanted, tangents, allow_unused=True)
        return [*(x.detach() for x in outputs), *(g for g in grads if g is not None)]

    joint(primals, tangents)
    traced = make_fx(
        lambda *given: joint(given[: len(primals)], list(given[len(primals) :])),
        decomposition_table=_compat.inductor_decompositions(),
        tracing_mode="fake",
    )(*primals, *tangents)
    _name_inputs(traced.graph, len(primals))
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return Joint(traced, [*primals, *tangents], len(state))


def _at_once(run: Any, *args: Any, policy: str = "all") -> Any:
    return run(*args)


def _name_inputs(graph: fx.Graph, primals: int) -> None:
    """Name inputs as AOTAutograd does, and say which inputs of the program they are."""
    for at, node in enumerate(graph.find_nodes(op="placeholder")):
        name = f"primals_{at + 1}" if at < primals else f"tangents_{at - primals + 1}"
        node.target = node.name = name
        if at < primals:
            node.meta["desc"] = SimpleNamespace(idx=at)
    (output,) = graph.find_nodes(op="output")
    output.args = (tuple(output.args[0]),)


def rewritten(joint: Joint, **options: Any) -> tuple[Joint, CompileReport]:
    """Cut (and, without a partition, schedule) a copy of a captured program."""
    module = fx.GraphModule(joint.module, _copied(joint.module.graph))
    chosen = Options.parse({"lowering": "eager", "check_ranks": False, **options})
    hints = Hints(parameters=frozenset(range(joint.parameters)))
    report = CompileReport(0, chosen.describe())
    pipeline = Pipeline(report, chosen, hints, Lowering())
    pipeline.run_joint(module.graph)
    if pipeline.overlap:
        pipeline.run_graph(module.graph)
    _allow_any_strides(module.graph)
    module.recompile()
    return Joint(module, joint.given, joint.parameters), report


def _copied(graph: fx.Graph) -> fx.Graph:
    copied = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    copied.output(copied.graph_copy(graph, values))
    return copied


def largest_error(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest relative error among results; see ``Result.errors``."""
    assert len(found) == len(expected)
    top = max((_norm(x) for x in expected), default=0.0)
    worst = 0.0
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        off = mine - theirs if mine.is_floating_point() else mine.int() - theirs.int()
        worst = max(worst, _norm(off) / max(_norm(theirs), 0.01 * top, 1e-30))
    return worst
