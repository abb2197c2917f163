"""Tokens that ranks hold at the ends of a program are exchanged, and then cut; on ranks in step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from domino_compile.analysis import CutPlan
from domino_compile.analysis.infer import infer_cut
from domino_compile.analysis.shards import find_shards
from domino_compile.axes import Chunks
from domino_compile.graph.collectives import find_sites
from domino_compile.ops.own_part import own_part
from domino_compile.ops.tokens import all_to_all_tokens, arrange_tokens
from domino_compile.passes.exchange import exchange_tokens
from domino_compile.passes.regroup import Exchange, Regrouped, regroup_graph, undo
from domino_compile.passes.slice import slice_graph
from domino_compile.verify.check import NUMBERS, Memory, check
from domino_compile.verify.part import NotEstablished
from domino_compile.verify.read import read_graph
from tests.rules.capturing import Captured, capture, copied, fake_group, largest_error
from tests.rules.harness import run
from tests.rules.test_dealt import RANKS, Gather, H, block

#: The tokens that a rank holds, and those of all ranks.
HELD, S = 4, 4 * RANKS
#: Sizes of slices that all end with the last token that a rank holds.
AT_RANKS = ((2, 2),)


def shards_throughout(dim: int) -> Any:
    """A block compiled alone: a rank's tokens come in and go out."""

    def step(x: Any, *weights: Any) -> Any:
        return block(x, *weights, dim=dim)

    return step


def piece_of_whole(dim: int) -> Any:
    """Each rank takes its piece of a value that it has whole; the loss is of all tokens."""

    def step(x: Any, target: Any, *weights: Any) -> Any:
        own = x.chunk(RANKS, dim)[0]
        return (Gather.apply(block(own, *weights, dim=dim), dim) * target).sum()

    return step


def captured(kind: Any, dim: int, batch: int = 1) -> Captured:
    fake_group()
    generator = torch.Generator().manual_seed(0)
    given = [HELD] if kind is shards_throughout else [S, S]
    shapes = [(batch, n, H) if dim else (n, batch, H) for n in given]
    shapes += [(H,), (H, 3 * 8), (8, H), (H, 6), (6, H)]
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    wanted = [x.requires_grad_(i not in range(1, len(given))) for i, x in enumerate(tensors)]
    return capture(kind(dim), *wanted)


def regrouped(found: Captured) -> Regrouped:
    shards = find_shards(found.graph, frozenset())
    assert shards is not None and shards.ranks == RANKS
    return regroup_graph(found.graph, shards)


def planned(found: Captured, made: Regrouped, sizes: tuple[int, ...]) -> CutPlan:
    plan = infer_cut(found.graph, 2, {x.gathered: x.dim for x in made.entries})
    assert isinstance(plan, CutPlan), plan
    return CutPlan(Chunks(plan.analysis.batch, sizes), plan.analysis)


def sliced(found: Captured, plan: CutPlan, made: Regrouped) -> tuple[fx.Graph, Regrouped]:
    """A copy of the graph, cut as planned, and the exchanges in it."""
    graph, env = copied(found.graph)
    slice_graph(graph, CutPlan(plan.chunks, plan.analysis.moved(env)))

    def there(exchange: Exchange) -> Exchange:
        nodes = tuple(env[node] for node in exchange.nodes)
        return Exchange(env[exchange.shard], env[exchange.gathered], exchange.dim, nodes)

    return graph, Regrouped(
        tuple(map(there, made.entries)), tuple(map(there, made.exits)), made.witness
    )


def on_ranks(found: Captured, graph: Any) -> list[list[Any]]:
    """The results of each rank, whose tokens and weights differ from the other ranks'."""
    ranks = [
        [x if x.shape == (H,) else x * (1 + 0.5 * rank) + rank for x in found.inputs]
        for rank in range(RANKS)
    ]
    with torch.no_grad():
        return [[x for x in result if x is not None] for result in run(graph, ranks, found.owner)]


def compare(want: list[list[Any]], got: list[list[Any]]) -> None:
    """Weights' gradients that ranks add up are equal in the sum, everything else on each rank."""
    for place, several in enumerate(zip(*want, strict=True)):
        ours = [result[place] for result in got]
        if several[0].shape == (H,):
            several, ours = [sum(several)], [sum(ours)]
        for one, two in zip(several, ours, strict=True):
            assert one.shape == two.shape
            assert largest_error([one], [two]) < 1e-12


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("kind", [shards_throughout, piece_of_whole])
def test_slices_of_exchanged_tokens_compute_what_the_uncut_program_does(
    kind: Any, dim: int
) -> None:
    found = captured(kind, dim)
    want = on_ranks(found, found.graph)
    made = regrouped(found)
    compare(want, on_ranks(found, found.graph))
    for sizes in ((2, 2), (3, 1), (1, 1, 2)):
        plan = planned(found, made, sizes)
        assert plan.analysis.looks_back and plan.analysis.unit == RANKS
        own = {site.launch for site in find_sites(found.graph)} - {
            node for x in (*made.entries, *made.exits) for node in x.nodes
        }
        assert own <= set(plan.analysis.sliced_collectives())
        cut, exchanges = sliced(found, plan, made)
        compare(want, on_ranks(found, cut))
        done = exchange_tokens(cut, exchanges)
        cut.lint()
        assert len(done.launches) == len(made.entries) + len(made.exits)
        assert not [node for node in cut.nodes if node.target is own_part]
        arranged = [node for node in cut.nodes if node.target is arrange_tokens]
        assert len(arranged) == (0 if sizes in AT_RANKS else len(done.launches))
        compare(want, on_ranks(found, cut))


def test_an_exchange_can_be_undone() -> None:
    found = captured(shards_throughout, 1)
    before = str(found.graph)
    made = regrouped(found)
    assert made.entries and made.exits
    undo(found.graph, made)
    assert str(found.graph) == before


@pytest.mark.parametrize("kind", [shards_throughout, piece_of_whole])
@pytest.mark.parametrize("dim", [0, 1])
def test_the_checker_establishes_an_exchange_and_its_slices(kind: Any, dim: int) -> None:
    found = captured(kind, dim)
    graphs = [read_graph(found.graph)]
    made = regrouped(found)
    graphs.append(read_graph(found.graph))
    done = check(graphs[0], graphs[1], made.witness, Memory())
    assert done.collectives[1] - done.collectives[0] == len(made.entries) + len(made.exits)
    for sizes in ((2, 2), (1, 1, 2)):
        cut, exchanges = sliced(found, planned(found, made, sizes), made)
        before = read_graph(cut)
        exchanged = exchange_tokens(cut, exchanges)
        done = check(before, read_graph(cut), exchanged.witness, Memory())
        assert done.counts[NUMBERS] == 0
        # where tokens leave, one exchange stands for the gathers of all slices
        fewer = len(made.exits) * (len(sizes) - 1)
        assert done.collectives[0] - done.collectives[1] == fewer


@pytest.mark.parametrize(
    ("target", "at", "value"),
    [
        (all_to_all_tokens, 1, [2, 2]),
        (all_to_all_tokens, 4, "another"),
        (arrange_tokens, 1, [2, 2]),
        (arrange_tokens, 2, True),
    ],
)
def test_the_checker_refuses_another_exchange(target: Any, at: int, value: Any) -> None:
    found = captured(shards_throughout, 1)
    made = regrouped(found)
    cut, exchanges = sliced(found, planned(found, made, (1, 3)), made)
    before = read_graph(cut)
    exchanged = exchange_tokens(cut, exchanges)
    changed = next(iter(cut.find_nodes(op="call_function", target=target)))
    changed.args = (*changed.args[:at], value, *changed.args[at + 1 :])
    with pytest.raises(NotEstablished):
        check(before, read_graph(cut), exchanged.witness, Memory())


def test_the_checker_refuses_another_ranks_part() -> None:
    found = captured(shards_throughout, 1)
    before = read_graph(found.graph)
    made = regrouped(found)
    entry = made.entries[0]
    with found.graph.inserting_after(entry.gathered):
        moved = found.graph.call_function(torch.ops.aten.flip.default, (entry.gathered, [1]))
    moved.meta = {**entry.gathered.meta}
    entry.nodes[-1].replace_input_with(entry.gathered, moved)
    with pytest.raises(NotEstablished, match=entry.shard.name):
        check(before, read_graph(found.graph), made.witness, Memory())
