"""The check of values knows the transport: what is carried is proved, and faults are refused."""

from typing import Any

import pytest
from torch import fx

from domino_compile.graph.collectives import WAIT, c10d
from domino_compile.passes.transport import transport_collectives
from domino_compile.transport import choice, ops
from domino_compile.transport.choice import Choice
from domino_compile.transport.memory import rounded_up
from domino_compile.verify import transported
from domino_compile.verify.check import Memory, check
from domino_compile.verify.part import NotEstablished
from domino_compile.verify.read import read_graph
from tests.passes.graphs import Builder, aten
from tests.verify.graphs import Rewriting
from tests.verify.transport_mutants import GRAPH_FAULTS, GRAPH_HARMLESS, graph_mutants

mm = aten.mm.default


def program(ranks: int, rows: int, width: int) -> fx.Graph:
    """Every kind of collective, each beside a product; two of a kind are in flight at once."""
    b = Builder()
    x, w = b.input("x", rows, width), b.input("w", width, width)
    gather = c10d.all_gather_into_tensor.default, ranks
    scatter = c10d.reduce_scatter_tensor.default, "sum", ranks
    results: list[Any] = []
    for target, *settings in ((c10d.all_reduce.default, "sum"), scatter, gather, gather):
        part = b.call(mm, x, w)
        launch = b.call(target, part, *settings, "tp")
        beside = b.call(mm, part, w)
        results += [b.call(WAIT, launch), beside]
    results[4] = b.call(mm, b.call(aten.view.default, results[4], [-1, width]), w)
    parts = [b.call(mm, x, w), b.call(mm, b.call(mm, x, w), w)]
    launches = [b.call(scatter[0], part, *scatter[1:], "tp") for part in parts]
    beside = b.call(mm, x, w)
    waits = [b.call(aten.relu.default, b.call(WAIT, launch)) for launch in launches]
    return b.output(*results, *waits, beside)


def carried(
    monkeypatch: pytest.MonkeyPatch, ranks: int, rank: int, rows: int = 8, width: int = 6
) -> Rewriting:
    """The program, whose collectives travel by the transport on one rank."""
    monkeypatch.setattr(choice, "against_group", lambda name, device: "")
    monkeypatch.setattr("domino_compile._compat.group_size", lambda name: ranks)
    monkeypatch.setattr("domino_compile._compat.rank_in", lambda name: rank)
    graph = program(ranks, rows, width)
    before = read_graph(graph)
    done = transport_collectives(graph, Choice("symmetric"), lambda _: True)
    assert len(done.carried) == 6 and not done.left
    return Rewriting(before, read_graph(graph), done.witness)


@pytest.mark.parametrize(
    ("ranks", "rank", "rows", "width"),
    [(2, 0, 8, 6), (2, 1, 8, 6), (3, 1, 9, 6), (4, 2, 8192, 8192), (8, 7, 8192, 4096)],
)
def test_what_is_carried_is_established(
    monkeypatch: pytest.MonkeyPatch, ranks: int, rank: int, rows: int, width: int
) -> None:
    done = check(*carried(monkeypatch, ranks, rank, rows, width), Memory())
    assert done.collectives == (6, 6) and not done.assumed


@pytest.mark.parametrize(("ranks", "rank"), [(2, 1), (4, 2)])
def test_faults_are_refused(monkeypatch: pytest.MonkeyPatch, ranks: int, rank: int) -> None:
    before, after, witness = carried(monkeypatch, ranks, rank)
    said: dict[str, str] = {}
    for kind, graph, harmless in graph_mutants(after, most=2):
        try:
            check(before, graph, witness, Memory())
            refused = ""
        except NotEstablished as error:
            refused = str(error)
        assert bool(refused) != harmless, (kind, refused)
        said[kind] = refused
    absent = ranks == 2  # an all-reduce between two ranks has no operation of its own
    assert len(said) == len(GRAPH_FAULTS) + len(GRAPH_HARMLESS) - absent, said
    assert "is still used by" in said["slot in use"] and "slot" in said["release dropped"]
    assert "after its release" in said["release before its readers"]
    assert "its numbers differ" in said["another share"]


def test_another_rank_is_not_what_the_graph_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that adds its own share is right on its own rank only."""
    before, after, witness = carried(monkeypatch, 4, 2)
    for name, op in after.operations.items():
        if transported.command_of(op.target) in transported.STARTS:
            object.__setattr__(op, "kwargs", (("rank", 1), ("ranks", 4)))
            assert after.operations[name] is op
    with pytest.raises(NotEstablished, match="its numbers differ"):
        check(before, after, witness, Memory())


def test_names_are_those_of_the_operations() -> None:
    starts = {str(x).split(".")[1] for x in ops.STARTS}
    others = {str(x).split(".")[1] for x in ops.WAITS}
    emitted = {str(x).split(".")[1] for x in ops.EMITTED.values()}
    assert starts == set(transported.STARTS)
    assert others == transported.WAITS | transported.RELEASES
    assert emitted == {name + transported.EMITTED for name in others}
    in_slots = {str(x).split(".")[1] for x in ops.IN_SLOTS}
    assert in_slots == {name for name, start in transported.STARTS.items() if start.in_slot}


def test_slots_are_told_apart_as_the_runtime_does() -> None:
    sizes = [*range(1, 5000, 7), *(2**n + d for n in range(10, 30) for d in (-1, 0, 1, 12345))]
    for nbytes in sizes:
        name = transported.slot_of("gather_start", 0, "tp", nbytes, 4)
        assert f" {rounded_up(nbytes)} bytes" in name
        shared = transported.slot_of("scatter_start", 0, "tp", 4 * nbytes, 4)
        assert f" {rounded_up(nbytes)} bytes" in shared
