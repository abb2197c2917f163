"""Facts about the graphs of one compile: parameters, memory, device, phase, and the cost model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import fx

from domino_compile import _compat
from domino_compile.analysis.found import Found
from domino_compile.cost import CostModel
from domino_compile.cost.waves import rows_a_block
from domino_compile.graph.collectives import find_sites, is_launch, tensor_bytes, tensors_of
from domino_compile.options import Options
from domino_compile.pipeline.contract import Context, Lowering
from domino_compile.pipeline.hints import Hints
from domino_compile.pipeline.order import PRODUCTS
from domino_compile.report import CompileReport
from domino_compile.scheduling import held_bytes
from domino_compile.transport.choice import Choice


@dataclass
class Facts:
    """What the passes of one compile may know besides a graph.

    Attributes:
        options: The user's options.
        hints: Facts about the inputs.
        lowering: The lowering that runs the graphs.
        slower: How many times slower than its table the link is assumed to be.
        cost_model: The cost model, once a graph has been asked about.
    """

    options: Options
    hints: Hints
    lowering: Lowering
    slower: float
    cost_model: CostModel | None = field(default=None, init=False, repr=False)

    def context(self, graph: fx.Graph, collectives: Found | None) -> Context:
        """Return the context in which passes run on a graph."""
        return Context(
            cost=self.cost(graph),
            lowering=self.lowering,
            on_gpu=device_of(graph).type == "cuda",
            memory_cap=self.options.memory_cap,
            found=collectives,
            choice=Choice.of(self.options),
        )

    def cost(self, graph: fx.Graph) -> CostModel:
        """Return the cost model, which the first graph that is asked about decides."""
        if self.cost_model is None:
            device = self.options.device or device_of(graph)
            marked = self.lowering.products and PRODUCTS.name not in self.options.disable_passes
            self.cost_model = CostModel(
                *(device, self.options.link, _compat.group_size, self.slower),
                configured=marked,
                by_copy_engines=self._by_copy_engines(graph),
            )
        return self.cost_model

    def _by_copy_engines(self, graph: fx.Graph) -> bool:
        """Return whether the option ``transport`` takes collectives off the multiprocessors."""
        choice = Choice.of(self.options)
        if choice is None or device_of(graph).type != "cuda":
            return False
        return choice.frees_multiprocessors(find_sites(graph))

    @property
    def rows_a_block(self) -> Callable[[int], int] | None:
        """Return the rows per thread block of a norm's gradients; ``None`` if unknown."""
        if self.cost_model is None or not self.cost_model.rates.multiprocessors:
            return None
        return partial(rows_a_block, multiprocessors=self.cost_model.free)

    def input_bytes(self, graph: fx.Graph) -> int:
        """Return the bytes that a joint graph's inputs hold during the whole step."""
        return held_bytes(graph) + self._copied_bytes(graph)

    def _copied_bytes(self, graph: fx.Graph) -> int:
        """Return the bytes of the inputs that the lowering copies: all except parameters."""
        if not self.lowering.copies_inputs or device_of(graph).type == "cpu":
            return 0
        parameters = self.hints.parameters_in(graph)
        return sum(
            tensor_bytes(n.meta["val"])
            for n in graph.find_nodes(op="placeholder")
            if _compat.input_position(n) is not None and n not in parameters
        )


def phase_of(graph: fx.Graph, report: CompileReport) -> str:
    """Return the phase of a lowered graph."""
    names = [str(n.target) for n in graph.find_nodes(op="placeholder")]
    if any(name.startswith("tangents") for name in names):
        return "backward"
    if any(c.phase == "backward" for c in report.collectives):
        return "forward"
    return "forward" if any(name.startswith("primals") for name in names) else "inference"


def device_of(graph: fx.Graph) -> torch.device:
    """Return the device type that the graph's collectives run on."""
    for node in graph.nodes:
        if is_launch(node):
            return next(tensors_of(node.meta["val"])).device
    return torch.device("cpu")
