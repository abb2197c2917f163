"""The work of one layer of a public job, from a capture that runs nothing.

One and two layers of the model are captured with fake tensors and a fake process group and handed
to the cost model. The second layer's work is the difference of the two; what remains of the first
capture is the end of the model (a norm and the collective in front of the head).

The captures use the rates of ``BASE``. ``benchmarks.public_step`` rescales each term to the device
of a row, so that a shape is captured only once.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

#: The device whose rates a capture is costed with.
BASE = "H100"
#: Its rates that ``public_step`` replaces by a system's.
RESCALED = ("half_tflops", "attention_forward_tflops", "memory_gb_s", "fused_share", "launch_us")
#: The table for collectives inside one machine.
LINK = "h200-nvlink-8"
#: All passes are off: what others measured is the program as it was written.
PASSES = ("normalise", "accumulate", "materialise", "slice", "columns", "schedule", "products")


@dataclass(frozen=True)
class Shape:
    """What determines a capture.

    Attributes:
        model: a name of ``domino bench``'s models.
        tp: the number of tensor-parallel ranks; 1 for none.
        batch: the rows of a micro-batch.
        seq: the tokens of a row on one rank, before sequence parallelism divides them.
        ac: the activation checkpointing.
    """

    model: str
    tp: int
    batch: int
    seq: int
    ac: str

    def __str__(self) -> str:
        return f"{self.model} tp{self.tp} {self.batch}x{self.seq} {self.ac}"


@dataclass(frozen=True)
class Terms:
    """The work of a part of a step on one rank; times in microseconds, without launches.

    Attributes:
        products_us: matrix products.
        products: their number.
        operands: the elements of all operands of the products.
        attention_us: fused attention.
        attentions: their number.
        fused_us: fused kernels.
        fused: their number.
        gathers_us: all-gathers of the tensor-parallel group.
        scatters_us: its reduce-scatters.
        wire_bytes: the payloads of both.
    """

    products_us: float = 0.0
    products: float = 0.0
    operands: float = 0.0
    attention_us: float = 0.0
    attentions: float = 0.0
    fused_us: float = 0.0
    fused: float = 0.0
    gathers_us: float = 0.0
    scatters_us: float = 0.0
    wire_bytes: float = 0.0

    def plus(self, other: Terms, times: float = 1.0) -> Terms:
        """Return the sum of these terms and a multiple of others."""
        mine, theirs = asdict(self), asdict(other)
        return Terms(**{name: value + times * theirs[name] for name, value in mine.items()})


def base_rates() -> dict[str, float]:
    """Return the rates that captures are costed with, and rescaled from."""
    from domino_compile.cost.rates import rates_named

    found = rates_named(BASE)
    assert found is not None
    return {name: getattr(found, name) for name in RESCALED}


def layer_and_end(shape: Shape) -> tuple[Terms, Terms]:
    """Return the work of one layer, and of the end of the model."""
    one, two = (capture(shape, layers) for layers in (1, 2))
    layer = two.plus(one, -1.0)
    return layer, one.plus(layer, -1.0)


def capture(shape: Shape, layers: int) -> Terms:
    """Return the work of a training step of a model with so many layers and without a head."""
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    import torch
    import torch.distributed as dist
    from torch import fx
    from torch._subclasses.fake_tensor import FakeTensorMode

    import domino_compile
    from benchmarks.plan_only import PlannedOnly, planned_only, planning_backend
    from domino_compile import _compat
    from domino_compile.options import Options
    from domino_compile.pipeline.contract import Lowering
    from domino_compile.tools.bench.workload import Step, Workload

    torch._dynamo.reset()
    domino_compile.reset_reports()
    if dist.is_initialized():
        dist.destroy_process_group()
    _compat.start_fake_group(shape.tp)
    options = Options(device=BASE, link=LINK, slices=1, disable_passes=PASSES)
    operands: list[float] = []

    def only(run: Any, graph: fx.Graph) -> None:
        operands.extend(_operands(graph))
        run(graph)
        raise PlannedOnly  # the first graph holds forward and backward

    backend = planning_backend(options, only, Lowering(fuses=True, products=True))
    # The workload checks that at least two ranks share a layer; the model asks the group.
    tp, style = max(shape.tp, 2), "megatron-sp"
    workload = Workload(
        shape.model, layers, shape.batch, shape.seq, tp, style=style, training=True, ac=shape.ac
    )
    assert dist.group.WORLD is not None
    with FakeTensorMode(allow_non_fake_inputs=True), planned_only():
        Step(workload, dist.group.WORLD, "cpu", lambda f: torch.compile(f, backend=backend))()
    (report,) = [report for report in domino_compile.reports() if report.uncut]
    return _terms(report.uncut, sum(operands), shape.tp > 1)


def _operands(graph: Any) -> list[float]:
    """Return the elements of each product's operands."""
    from domino_compile.cost.model import work_of

    works = [work_of(node) for node in graph.nodes]
    products = [work.product for work in works if work is not None and work.product is not None]
    return [x.batch * x.inner * (x.rows + x.columns) for x in products]


def _terms(uncut: Any, operands: float, communicates: bool) -> Terms:
    """Return the terms of the captured program.

    Args:
        uncut: the prediction for Inductor alone.
        operands: the elements of all operands of its products.
        communicates: whether more than one rank shares a layer.
    """
    from domino_compile.cost import rates_for

    launch = rates_for(BASE).launch_us
    times: dict[str, float] = {"matmul": 0.0, "attention": 0.0, "fused": 0.0}
    kernels = dict(times)
    for step in uncut.steps:
        kind = "fused" if step.kind == "kernel" else step.kind
        if kind in times:
            times[kind] += step.end_us - step.start_us - step.kernels * launch
            kernels[kind] += step.kernels
    wires = uncut.wires if communicates else []
    gathers = [wire.wire_us for wire in wires if wire.kind.startswith("all_gather")]
    return Terms(
        products_us=times["matmul"],
        products=kernels["matmul"],
        operands=operands,
        attention_us=times["attention"],
        attentions=kernels["attention"],
        fused_us=times["fused"],
        fused=kernels["fused"],
        gathers_us=sum(gathers),
        scatters_us=sum(wire.wire_us for wire in wires) - sum(gathers),
        wire_bytes=sum(wire.bytes for wire in wires),
    )
