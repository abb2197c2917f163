"""Joint graphs of any number of equal layers, planned as the pipeline plans them."""

from __future__ import annotations

from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from domino_compile.analysis.found import find_collectives
from domino_compile.cost import CostModel
from domino_compile.options import Options
from domino_compile.pipeline.decide import Question, decide
from domino_compile.pipeline.decision import Decision
from domino_compile.planner import by_inductor, predict_as_found, unfold
from tests.passes.graphs import Builder, aten

ROWS, HIDDEN, INNER = 4096, 2048, 1024


def layers(count: int, checkpointed: bool) -> fx.Graph:
    """Layers of an MLP whose hidden values are scaled by one table, and their gradients.

    Args:
        count: the number of layers.
        checkpointed: whether backward recomputes each layer.
    """
    b, mm = Builder(), aten.mm.default
    x, table = b.input("primals_1", ROWS, HIDDEN), b.input("primals_2", INNER)
    weights = [
        (
            b.input(f"primals_{2 * i + 3}", HIDDEN, INNER),
            b.input(f"primals_{2 * i + 4}", INNER, HIDDEN),
        )
        for i in range(count)
    ]
    grad = b.input("tangents_1", ROWS, HIDDEN)
    angles, kept = b.call(aten.cos.default, table), []
    for number, (up, down) in enumerate(weights):
        before = len(b.graph.nodes)
        product = b.call(aten.mul.Tensor, b.call(mm, x, up), angles)
        hidden = b.call(aten.relu.default, product)
        kept.append((x, hidden))
        x = b.call(aten.add.Tensor, x, b.all_reduce(b.call(mm, hidden, down)))
        for node in list(b.graph.nodes)[before:] if checkpointed else ():
            node.meta["recompute"] = CheckpointPolicy.PREFER_RECOMPUTE
            node.meta["ac_graph_id"] = number
    results = []
    for (up, down), (source, hidden) in zip(reversed(weights), reversed(kept), strict=True):
        results.append(b.call(mm, b.t(hidden), grad))
        inner = b.call(aten.threshold_backward.default, b.call(mm, grad, b.t(down)), hidden, 0)
        inner = b.call(aten.mul.Tensor, inner, angles)
        results.append(b.call(mm, b.t(source), inner))
        grad = b.call(aten.add.Tensor, grad, b.all_reduce(b.call(mm, inner, b.t(up))))
    return b.output(x, grad, *results)


def planned(graph: fx.Graph) -> Decision:
    """Decide about a graph, as one of eight ranks on H200s."""
    options = Options(device="H200", link="h200-nvlink-8", columns=1)
    cost = CostModel("H200", "h200-nvlink-8", lambda _: 8)
    program = unfold(graph)
    units = program.units(cost)
    alone = predict_as_found(by_inductor(units, cost), program.is_backward)
    found = find_collectives(graph, frozenset())
    return decide(Question(graph, found, cost, alone, program, units, options))
