"""Each pass on small graphs: what changed, as text (``make golden``), and that it is right."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import fx

from domino_compile.analysis import CutPlan, cut_columns, infer_cut
from domino_compile.graph.collectives import is_launch, is_wait
from domino_compile.graph.tags import Piece, origin_of, piece_of
from domino_compile.passes.accumulate import accumulate_products
from domino_compile.passes.materialise import materialise_values
from domino_compile.passes.normalise import normalise_graph
from domino_compile.passes.pin import pin_order
from domino_compile.passes.schedule import schedule_graph
from domino_compile.passes.slice import slice_graph
from domino_compile.report.graph_text import readable
from domino_compile.report.schedule import schedule
from domino_compile.report.schedule_text import schedule_text
from tests.passes import graphs
from tests.passes.costs import COSTS

aten = torch.ops.aten
Golden = Callable[[str, str], None]
CAP = 0.5
GRAPHS: dict[str, tuple[Callable[[], fx.Graph], dict[str, int]]] = {
    "mlp.forward": (graphs.mlp_forward, {"x": 0}),
    "mlp.backward": (graphs.mlp_backward, {"x": 0, "relu": 0, "tangents_1": 0}),
    "mlp.joint": (graphs.mlp_joint, {"primals_1": 0}),
    "attention.forward": (graphs.attention_forward, {"x": 0}),
}


def cut(graph: fx.Graph, batch: dict[str, int]) -> None:
    inputs = {n: batch[n.name] for n in graph.find_nodes(op="placeholder") if n.name in batch}
    plan = infer_cut(graph, 2, inputs)
    assert isinstance(plan, CutPlan)
    assert not plan.analysis.inner_joins()
    slice_graph(graph, plan)


@pytest.mark.parametrize("name", GRAPHS)
def test_slice(name: str, golden: Golden) -> None:
    make, batch = GRAPHS[name]
    graph = make()
    inputs = graphs.random_inputs(graph)
    expected = graphs.run(graph, inputs)
    golden(f"passes/{name}.captured.py", readable(graph))
    launches = sum(map(is_launch, graph.nodes))
    cut(graph, batch)
    golden(f"passes/{name}.sliced.py", readable(graph))
    assert sum(map(is_launch, graph.nodes)) == 2 * launches
    assert graphs.same(graphs.run(graph, inputs), expected)


@pytest.mark.parametrize("name", ["mlp.forward", "mlp.backward"])
def test_columns(name: str, golden: Golden) -> None:
    """Cut by columns, ordered: the collective of one part flies under the next part's product."""
    graph = GRAPHS[name][0]()
    inputs = graphs.random_inputs(graph)
    expected = graphs.run(graph, inputs)
    plan = cut_columns(graph, 2)
    assert isinstance(plan, CutPlan) and plan.columns
    slice_graph(graph, plan)
    schedule_graph(graph, COSTS, CAP)
    golden(f"passes/{name}.columns.py", readable(graph))
    assert graphs.same(graphs.run(graph, inputs), expected)
    events = [n for n in graph.nodes if is_launch(n) or is_wait(n) or n.target == aten.mm.default]
    first = next(i for i, n in enumerate(events) if is_launch(n))
    assert events[first + 1].target == aten.mm.default and events[first + 1].name.endswith("_c1")


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("which", [0, 1])
def test_columns_in_front_of_one_collective(which: int, rows: bool) -> None:
    """The others stay as they are, also where the rows were cut before."""
    make, batch = GRAPHS["mlp.joint"]
    graph = make()
    inputs = graphs.random_inputs(graph)
    expected = graphs.run(graph, inputs)
    forward, backward = [n.name for n in graph.nodes if is_launch(n)]
    if rows:
        cut(graph, batch)
    name = (forward, backward)[which]
    plan = cut_columns(graph, 2, at={name})
    assert isinstance(plan, CutPlan)
    slice_graph(graph, plan)
    launches = Counter(origin_of(n) or n.name for n in graph.nodes if is_launch(n))
    parts = 2 if rows else 1
    assert launches == {forward: parts, backward: parts} | {name: 2 * parts}
    assert graphs.same(graphs.run(graph, inputs), expected)


@pytest.mark.parametrize("name", ["mlp.forward", "mlp.backward", "attention.forward"])
def test_rows_and_columns(name: str) -> None:
    make, batch = GRAPHS[name]
    graph = make()
    inputs = graphs.random_inputs(graph)
    expected = graphs.run(graph, inputs)
    launches = sum(map(is_launch, graph.nodes))
    cut(graph, batch)
    plan = cut_columns(graph, 3)
    assert isinstance(plan, CutPlan)
    slice_graph(graph, plan)
    assert sum(map(is_launch, graph.nodes)) == 6 * launches
    parts = {piece_of(n) for n in graph.nodes if is_launch(n)}
    assert parts == {Piece(row, column) for row in range(2) for column in range(3)}
    assert graphs.same(graphs.run(graph, inputs), expected)


@pytest.mark.parametrize("name", ["mlp.forward", "mlp.backward", "attention.forward"])
def test_schedule_and_pin(name: str, golden: Golden) -> None:
    make, batch = GRAPHS[name]
    graph = make()
    inputs = graphs.random_inputs(graph)
    expected = graphs.run(graph, inputs)
    cut(graph, batch)
    nodes = list(graph.nodes)
    result = schedule_graph(graph, COSTS, CAP)
    assert set(nodes) == set(graph.nodes)
    golden(f"passes/{name}.scheduled.py", readable(graph))
    golden(f"passes/{name}.schedule.txt", schedule_text(schedule("forward", result)))
    assert graphs.same(graphs.run(graph, inputs), expected)
    pin_order(graph)
    golden(f"passes/{name}.pinned.py", readable(graph))
    assert graphs.same(graphs.run(graph, inputs), expected)


def test_normalise(golden: Golden) -> None:
    graph = graphs.three_inputs_reduced()
    inputs = graphs.random_inputs(graph)
    expected = graphs.run(graph, inputs)
    golden("passes/qkv.backward.captured.py", readable(graph))
    assert normalise_graph(graph).fewer == 2
    golden("passes/qkv.backward.normalised.py", readable(graph))
    assert graphs.same(graphs.run(graph, inputs), expected)


def test_accumulate(golden: Golden) -> None:
    graph = graphs.three_inputs_reduced(torch.bfloat16)
    inputs = graphs.random_inputs(graph)
    expected = graphs.run(graph, inputs)
    assert normalise_graph(graph).fewer == 2 and len(accumulate_products(graph)) == 2
    golden("passes/qkv.backward.accumulated.py", readable(graph))
    assert graphs.same(graphs.run(graph, inputs), expected)


def test_materialise(golden: Golden) -> None:
    graph = graphs.rotary()
    inputs = graphs.random_inputs(graph)
    expected = graphs.run(graph, inputs)
    golden("passes/rotary.captured.py", readable(graph))
    assert materialise_values(graph) == 1
    golden("passes/rotary.materialised.py", readable(graph))
    assert graphs.same(graphs.run(graph, inputs), expected)
