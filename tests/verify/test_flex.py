"""FlexAttention is proved by structure: at any size, and with the lists of blocks of its mask."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from domino_compile.analysis import CutPlan
from domino_compile.passes.slice import slice_graph
from domino_compile.verify.check import Memory, check
from domino_compile.verify.claims import Witness
from domino_compile.verify.part import NotEstablished
from domino_compile.verify.plain import Graph, Ref, replaced
from domino_compile.verify.read import read_graph
from tests.rules import test_surface_flex as flex
from tests.rules.capturing import capture

LENGTH, WIDTH = 128, 256  # too large to be run


@pytest.fixture(autouse=True)
def _set_up(monkeypatch: pytest.MonkeyPatch) -> Any:
    yield from flex._set_up.__wrapped__(monkeypatch)  # type: ignore[attr-defined]


def rewriting() -> tuple[Graph, Graph, Witness]:
    """A layer whose mask looks up its row's documents, before and after the cut."""
    mask = flex.blocks(flex.documents(LENGTH), flex.B, LENGTH)
    model = flex.Layer(flex.distance, width=WIDTH)
    captured = capture(model, torch.rand(flex.B, LENGTH, WIDTH), mask)
    plan = captured.plan()
    assert isinstance(plan, CutPlan), plan
    before = read_graph(captured.graph)
    witness = slice_graph(captured.graph, plan).witness
    return before, read_graph(captured.graph), witness


def changed(graph: Graph, target: str, old: str, new: str) -> Graph:
    """The graph, where the first call that reads one value reads another."""
    operations = dict(graph.operations)
    name = next(op.name for op in operations.values() if op.target == target and old in op.operands)
    swap = lambda ref: Ref(new) if ref.name == old else ref  # noqa: E731
    args = replaced(operations[name].args, swap)
    operations[name] = replace(operations[name], args=args)
    return replace(graph, operations=operations)


def test_a_cut_is_proved_at_sizes_that_cannot_be_run() -> None:
    before, after, witness = rewriting()
    check(before, after, witness, Memory())
    calls = [op for op in after.operations.values() if "flex_attention" in op.target]
    assert len(calls) >= 2
    first, second = calls[:2]
    pairs = [
        (a, b)
        for a, b in zip(first.operands, second.operands, strict=True)
        if a != b and a not in after.inner and after.operations[a].value is not None
        and after.operations[a].value == after.operations[b].value
    ]  # fmt: skip
    assert len(pairs) >= 5, pairs  # queries, keys, values, lists of blocks, documents
    for own, other in pairs:  # of another slice
        wrong = changed(after, first.target, own, other)
        with pytest.raises(NotEstablished):
            check(before, wrong, witness, Memory())


def test_another_function_is_refused() -> None:
    before, after, witness = rewriting()
    inner = {
        name: replace(
            graph,
            operations={
                key: replace(op, target="aten.gt.Tensor") if op.target == "aten.ge.Tensor" else op
                for key, op in graph.operations.items()
            },
        )
        for name, graph in after.inner.items()
    }
    with pytest.raises(NotEstablished):
        check(before, replace(after, inner=inner), witness, Memory())
