"""A graph with every kind of collective, behind the pass ``transport``, on any rank of a group."""

from typing import Any
from unittest import mock

from torch import fx

from domino_compile import _compat
from domino_compile.graph.collectives import WAIT, c10d
from domino_compile.passes.transport import transport_collectives
from domino_compile.transport import choice
from domino_compile.transport.choice import Choice
from domino_compile.verify.read import read_graph
from tests.passes.graphs import Builder, aten
from tests.verify.graphs import Rewriting

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


def carried(ranks: int, rank: int, rows: int = 8, width: int = 6) -> Rewriting:
    """The program, whose collectives travel by the transport on one rank."""
    with (
        mock.patch.object(choice, "against_group", lambda name, device: ""),
        mock.patch.object(_compat, "group_size", lambda name: ranks),
        mock.patch.object(_compat, "rank_in", lambda name: rank),
    ):
        graph = program(ranks, rows, width)
        before = read_graph(graph)
        done = transport_collectives(graph, Choice("symmetric"), lambda _: True)
        assert len(done.carried) == 6 and not done.left
        return Rewriting(before, read_graph(graph), done.witness)
