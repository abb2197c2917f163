"""Joint graphs as the slice pass sees them, without lowering them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import fx
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.joint_graph import joint_graph_passes
from torch._inductor.virtualized import V

from domino_compile import _compat
from domino_compile.analysis import CutPlan, NoCut, infer_cut
from domino_compile.passes.slice import slice_graph
from tests.rules import reference  # noqa: F401  (registers the stand-ins)
from tests.rules.harness import run

c10d: Any = torch.ops._c10d_functional
GROUP = "0"  # the default group


class Reduce(torch.autograd.Function):
    """Behind a row-parallel product: all-reduce forward, nothing backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        del ctx
        return c10d.wait_tensor(c10d.all_reduce(x, "sum", GROUP))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        del ctx
        return grads[0].clone()


class Copy(torch.autograd.Function):
    """In front of a column-parallel product: nothing forward, all-reduce backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        del ctx
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        del ctx
        return c10d.wait_tensor(c10d.all_reduce(grads[0].contiguous(), "sum", GROUP))


def reduce_from(x: torch.Tensor) -> torch.Tensor:
    """Megatron's ``g``."""
    return Reduce.apply(x)


def copy_to(x: torch.Tensor) -> torch.Tensor:
    """Megatron's ``f``."""
    return Copy.apply(x)


def all_reduce_max(x: torch.Tensor) -> torch.Tensor:
    """The largest over ranks, without a gradient."""
    return c10d.wait_tensor(c10d.all_reduce(x.detach(), "max", GROUP))


@dataclass
class Captured:
    """A joint graph and the values of its inputs."""

    graph: fx.Graph
    inputs: list[Any]
    owner: Any = None

    def plan(self, slices: int = 2, named: bool = False) -> CutPlan | NoCut:
        """The cut that the analysis finds; ``named``: along the first dimension of the tokens."""
        if not named:
            return infer_cut(self.graph, slices)
        inputs = {n: n.meta.get("val") for n in self.graph.nodes if n.op == "placeholder"}
        tokens = [n for n, v in inputs.items() if v.dtype == torch.int64 and v.dim() == 2]
        return infer_cut(self.graph, slices, dict.fromkeys(tokens, 0))

    def run(self, graph: fx.Graph) -> list[Any]:
        """Run a form of the graph; random seeds are the same every time."""
        torch.manual_seed(1)
        with torch.no_grad():
            (result,) = run(graph, [self.inputs], self.owner)
        return [x for x in result if isinstance(x, torch.Tensor)]

    def sliced(self, plan: CutPlan) -> fx.Graph:
        """A copy of the graph, cut as planned."""
        graph, env = copied(self.graph)
        slice_graph(graph, CutPlan(plan.chunks, plan.analysis.moved(env)))
        graph.lint()
        return graph


def copied(graph: fx.Graph) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """A copy of a graph with its metadata, and where each node went."""
    env: dict[fx.Node, fx.Node] = {}
    copy_ = fx.Graph(graph.owning_module)
    copy_.output(copy_.graph_copy(graph, env))
    for node, twin in env.items():
        twin.meta = dict(node.meta)
    return copy_, env


def capture(function: Callable[..., torch.Tensor], *inputs: Any, dynamic: bool = False) -> Captured:
    """The joint graph of ``function(*inputs)`` under ``torch.compile``, as Inductor prepares it."""
    joint: list[tuple[fx.GraphModule, fx.Graph]] = []
    values: list[Any] = []

    def partition(gm: fx.GraphModule, joint_inputs: Any, **options: Any) -> Any:
        with V.set_fake_mode(_compat.fake_mode_of(gm.graph)):
            joint_graph_passes(gm)
        joint.append((gm, copied(gm.graph)[0]))
        return min_cut_rematerialization_partition(gm, joint_inputs, **options)

    def forward_compiler(gm: fx.GraphModule, _: Any) -> Any:
        def remember(*args: Any) -> Any:
            values.extend(a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args)
            return gm(*args)

        return remember

    backend = aot_autograd(
        fw_compiler=forward_compiler,
        bw_compiler=lambda gm, _: gm,
        partition_fn=partition,
        decompositions=select_decomp_table(),
    )
    torch._dynamo.reset()
    torch.manual_seed(0)
    torch.compile(function, backend=backend, fullgraph=True, dynamic=dynamic)(*inputs)
    ((gm, graph),) = joint
    return Captured(graph, values + tangents(graph, len(values)), gm)


def tangents(graph: fx.Graph, first: int) -> list[torch.Tensor]:
    """Gradients of the outputs."""
    generator = torch.Generator().manual_seed(2)
    missing = [n for n in graph.nodes if n.op == "placeholder"][first:]
    return [
        torch.rand(
            [int(e) for e in n.meta["val"].shape], generator=generator, dtype=torch.float64
        ).to(n.meta["val"].dtype)
        for n in missing
    ]


def largest_error(want: list[Any], got: list[Any]) -> float:
    """The largest difference relative to the largest entry, over all results.

    A result that is zero up to rounding (the gradient of a key's bias: a softmax does not see it)
    is measured against the largest of all results.
    """
    worst = 0.0
    assert len(want) == len(got)
    floats = [x for x in want if x.dtype.is_floating_point and x.numel()]
    floor = 1e-6 * max(float(x.abs().max()) for x in floats)
    for one, two in zip(want, got, strict=True):
        assert one.shape == two.shape and one.dtype == two.dtype
        if not one.dtype.is_floating_point:
            assert torch.equal(one, two)
        elif one.numel():
            assert torch.isfinite(one).all()
            scale = max(float(one.abs().max()), floor)
            worst = max(worst, float((one - two).abs().max()) / scale)
    return worst


def fake_group() -> None:
    """A process group that does nothing, for tracing."""
    if not dist.is_initialized():
        _compat.start_fake_group(2)
    assert dist.group.WORLD is not None and dist.group.WORLD.group_name == GROUP
