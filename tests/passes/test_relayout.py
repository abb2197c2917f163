"""``relayout``: the same values come out, and only what needs row order is copied into it."""

import operator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import fx

from domino_compile.analysis import token_order
from domino_compile.analysis.token_order import stacked
from domino_compile.graph.collectives import WAIT, c10d
from domino_compile.graph.new_nodes import run_fake
from domino_compile.passes.relayout import relayout_graph
from domino_compile.pipeline.contract import Outcomes, Pass
from domino_compile.pipeline.runner import Runner
from domino_compile.report.dump import Dump
from domino_compile.verify.check import Memory, check
from domino_compile.verify.part import NotEstablished
from domino_compile.verify.read import read_graph
from domino_compile.verify.verifier import Verifier
from tests.passes.graphs import Builder, aten, random_inputs, run

RANKS, SHARD, WIDTH, INNER = 4, 3, 16, 6
TOKENS = RANKS * SHARD


def gathered(b: Builder, name: str, rows: int) -> fx.Node:
    """Tokens as an all-gather leaves them, and then in row order."""
    shard = b.input(name, rows, SHARD, WIDTH, dtype=torch.float64)
    launch = b.call(c10d.all_gather_into_tensor.default, shard, RANKS, "tp")
    return stack(b, b.call(WAIT, launch), rows, 0, 1)


def stack(b: Builder, x: fx.Node, size: int, along: int, into: int) -> fx.Node:
    split = b.call(aten.split.Tensor, x, size, along)
    count = len(split.meta["val"])
    parts = []
    for i in range(count):
        part = b.graph.create_node("call_function", operator.getitem, (split, i))
        part.meta["val"] = split.meta["val"][i]
        parts.append(part)
    return b.call(aten.cat.default, parts, into)


def product(b: Builder, x: fx.Node, weight: fx.Node, rows: int) -> fx.Node:
    """``x @ weight`` as DTensor's linear layers compute it."""
    width, out = weight.meta["val"].shape
    flat = b.call(aten.view.default, x, [rows * TOKENS, width])
    return b.call(aten.view.default, b.call(aten.mm.default, flat, weight), [rows, TOKENS, out])


def weights(b: Builder) -> tuple[fx.Node, fx.Node]:
    up = b.input("up", WIDTH, INNER, dtype=torch.float64)
    return up, b.input("down", INNER, WIDTH, dtype=torch.float64)


def mlp(rows: int) -> fx.Graph:
    """A gated layer between a gather and a scatter, with the gradient of a weight."""
    b = Builder()
    x, grad = gathered(b, "x", rows), gathered(b, "grad", rows)
    up, down = weights(b)
    scale = b.input("scale", INNER, dtype=torch.float64)
    inner = b.call(aten.mul.Tensor, b.call(aten.sigmoid.default, product(b, x, up, rows)), scale)
    y = stack(b, product(b, inner, down, rows), SHARD, 1, 0)
    flat = b.call(aten.view.default, grad, [rows * TOKENS, WIDTH])
    of_down = b.call(
        aten.mm.default, b.t(b.call(aten.view.default, inner, [rows * TOKENS, INNER])), flat
    )
    largest = b.call(aten.amax.default, inner, [0, 1])
    total = b.call(aten.max.default, b.call(aten.abs.default, x))
    return b.output(b.contiguous(y), of_down, largest, total)


def mixed(rows: int) -> fx.Graph:
    """As attention does, a running sum over each row's tokens needs them in order."""
    b = Builder()
    x = gathered(b, "x", rows)
    up, down = weights(b)
    summed = b.call(aten.cumsum.default, product(b, x, up, rows), 1)
    y = stack(b, product(b, summed, down, rows), SHARD, 1, 0)
    return b.output(b.contiguous(y))


def returned(rows: int) -> fx.Graph:
    b = Builder()
    return b.output(gathered(b, "x", rows))


GRAPHS = {"mlp": mlp, "mixed": mixed}


def copied(graph: fx.Graph) -> list[int]:
    """The elements of each copy into another order."""
    made = [n for n in graph.nodes if n.target is aten.clone.default and "relaid" in n.name]
    return [n.meta["val"].numel() for n in made] + [
        n.meta["val"].numel() for n in graph.nodes if stacked(n) is not None
    ]


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("name", GRAPHS)
def test_the_same_comes_out_and_is_proved(name: str, rows: int) -> None:
    graph = GRAPHS[name](rows)
    inputs = random_inputs(graph)
    expected, before = run(graph, inputs), read_graph(graph)
    witness = relayout_graph(graph).witness
    graph.lint()
    for value, found in zip(expected, run(graph, inputs), strict=True):
        torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)
    assert not any(map(stacked, graph.nodes))
    check(before, read_graph(graph), witness, Memory())


def test_nothing_is_copied_between_gather_and_scatter() -> None:
    graph = mlp(2)
    relayout_graph(graph)
    assert copied(graph) == []


def test_only_the_narrow_values_are_put_in_order() -> None:
    graph = mixed(2)
    assert copied(graph) == [2 * TOKENS * WIDTH, 2 * TOKENS * WIDTH]
    relayout_graph(graph)
    assert copied(graph) == [2 * TOKENS * INNER, 2 * TOKENS * INNER]


def test_one_row_needs_no_copies() -> None:
    graph = mixed(1)
    relayout_graph(graph)
    assert copied(graph) == []


def test_what_the_graph_returns_is_memory_of_its_own() -> None:
    graph = returned(1)
    assert not relayout_graph(graph)
    assert stacked(graph.output_node().args[0][0]) is not None  # type: ignore[index, arg-type]


def broken(graph: fx.Graph, number: int) -> Any:
    """Do the pass, and leave one of the copies in the order in which it was."""
    made = relayout_graph(graph)
    permuted = [n for n in graph.nodes if n.target is aten.permute.default and "relaid" in n.name]
    assert len(permuted) == 2
    apart, dims = permuted[number].args
    permuted[number].args = (apart, [*range(len(dims))])  # type: ignore[arg-type]
    for node in graph.nodes:
        if node.op == "call_function" and node.target is not operator.getitem:
            run_fake(node)
    return made


@pytest.mark.parametrize("rows", [2, 3])
@pytest.mark.parametrize("number", [0, 1])
def test_a_wrong_order_is_refused(number: int, rows: int) -> None:
    graph = mixed(rows)
    before, made = read_graph(graph), broken(graph, number)
    with pytest.raises(NotEstablished):
        check(before, read_graph(graph), made.witness, Memory())


def fails(graph: fx.Graph) -> Any:
    broken(graph, 0)
    raise RuntimeError("out of luck")


@pytest.mark.parametrize("run", [lambda graph: broken(graph, 0), fails])
def test_the_graph_does_without_a_pass_that_is_not_established(run: Any) -> None:
    graph, verifier = mixed(2), Verifier()
    before = str(graph)
    optional = Pass("relayout", lambda at: True, lambda graph, at: run(graph), optional=True)
    at: Any = SimpleNamespace(outcomes=Outcomes())
    Runner(Dump(None, 0, {}), verifier=verifier).run((optional,), graph, "joint", at)
    graph.lint()
    assert str(graph) == before and at.outcomes.of(optional) is None
    assert verifier.problem == "" and not verifier.checked


def test_an_optional_pass_runs_once() -> None:
    graph, runs = mixed(2), []

    def run(graph: fx.Graph, at: Any) -> Any:
        runs.append(graph)
        return relayout_graph(graph)

    at: Any = SimpleNamespace(outcomes=Outcomes(), found=None)
    runner = Runner(Dump(None, 0, {}), verifier=Verifier())
    runner.run((Pass("relayout", lambda at: True, run, optional=True),), graph, "joint", at)
    assert runs == [graph] and copied(graph) == [2 * TOKENS * INNER, 2 * TOKENS * INNER]


def layered(layers: int) -> fx.Graph:
    """Layers of ``mixed``, one behind the other."""
    b = Builder()
    up, down = weights(b)
    x = gathered(b, "x", 2)
    for _ in range(layers):
        summed = b.call(aten.cumsum.default, product(b, x, up, 2), 1)
        y = stack(b, product(b, summed, down, 2), SHARD, 1, 0)
        launch = b.call(c10d.all_gather_into_tensor.default, b.contiguous(y), 1, "tp")
        x = stack(b, b.call(WAIT, launch), 2, 0, 1)
    return b.output(b.contiguous(x))


def test_equal_layers_are_cut_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts: list[Any] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        cuts.append(args)
        return nx_minimum_cut(*args, **kwargs)

    nx_minimum_cut = token_order.nx.minimum_cut
    monkeypatch.setattr(token_order.nx, "minimum_cut", counted)
    numbers = []
    for layers in (3, 6):
        cuts.clear()
        relayout_graph(layered(layers))
        numbers.append(len(cuts))
    assert numbers[0] == numbers[1] > 0
