"""Where to cut: which inputs carry the batch, found by trying."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import fx

from domino_compile.analysis import reasons
from domino_compile.analysis.dealt import scattered_over
from domino_compile.analysis.found import leading_to_computation
from domino_compile.analysis.propagate import Analysis, make_call, propagate
from domino_compile.analysis.reasons import Reason
from domino_compile.analysis.stops import Stop, find_stops, first_join
from domino_compile.axes import Chunks, Partial, Size, Sliced, quotient, to_size
from domino_compile.graph.collectives import (
    Site,
    find_sites,
    size_hint,
    tensor_bytes,
)
from domino_compile.rules import Cut, find_pull

#: Candidates that are tried when the batch is not named; more are never seen to be needed.
MAX_CANDIDATES = 12
#: Rounds of "make in slices what is wanted in slices" (each finds values one step further back).
MAX_ROUNDS = 6
#: Rows of every slice of a dynamic batch: what torch takes for granted of a dynamic extent.
MIN_DYNAMIC_ROWS = 2


@dataclass(frozen=True)
class CutPlan:
    """The graph is cut: the chunks of the axis, and what each operation does.

    Attributes:
        chunks: the extents of the slices.
        analysis: what each operation does.
        columns: whether columns of products are cut, not rows of the batch.
        stops: what keeps the other collectives from being cut, by their names.
    """

    chunks: Chunks
    analysis: Analysis
    columns: bool = False
    stops: Mapping[str, Stop] = field(default_factory=dict)


@dataclass(frozen=True)
class NoCut:
    """The graph is not cut.

    Attributes:
        reason: why, and what would change that.
        tried: the analysis of the axis that came nearest, if one was tried.
        stop: the operation that stops the cut along that axis, if one does.
    """

    reason: Reason
    tried: Analysis | None = None
    stop: Stop | None = None


@dataclass(frozen=True)
class Seed:
    """An input and the dimension of it where a cut may begin."""

    node: fx.Node
    dim: int
    extent: Size


def infer_cut(
    graph: fx.Graph,
    slices: int,
    named: Mapping[fx.Node, int] | None = None,
    unlikely: frozenset[fx.Node] = frozenset(),
    sites: Sequence[Site] | None = None,
) -> CutPlan | NoCut:
    """Choose the axis to cut and analyse the graph along it.

    An axis is good if it cuts many bytes of collectives and joins few. Every axis gives a right
    program; a bad one only gives a slow one.

    Args:
        graph: a functional joint or inference graph.
        slices: how many slices are wanted.
        named: inputs that carry the batch, with the dimension; ``None`` to find them.
        unlikely: inputs to try last (parameters).
        sites: the collectives that the cut is for; by default all of the graph.
    """
    sites = find_sites(graph) if sites is None else sites
    if not sites:
        return NoCut(reasons.no_collective())
    if slices < 2:
        return NoCut(reasons.slices_is_1())
    if named:
        seeds = {node: Sliced(dim) for node, dim in named.items()}
        node, dim = next(iter(named.items()))
        ways = _ways(graph, to_size(node.meta["val"].shape[dim]), seeds)
        best: Analysis | None = max(ways, key=lambda found: len(found.sliced_collectives()))
        assert best is not None
    else:
        best, tried = _best_seed(graph, sites, unlikely)
        if best is None:
            return _no_axis(tried, sites)
    rows = rows_of(best)
    parts = min(slices, most_slices(best))
    if parts < 2:
        return NoCut(_too_few(rows, best.batch), best)
    analysis = extended(graph, best)
    if not {site.launch for site in sites} & set(analysis.sliced_collectives()):
        return NoCut(reasons.no_carrier(), analysis, _first(find_stops(analysis, sites)))
    stops = find_stops(analysis, sites)
    return CutPlan(Chunks.even(analysis.batch, parts), analysis, stops=stops)


def _no_axis(tried: Analysis | None, sites: Sequence[Site]) -> NoCut:
    """No axis is good: the one that came nearest cuts no collective, or joins more than it cuts."""
    if tried is None:
        return NoCut(reasons.no_axis())
    if tried.sliced_collectives():
        return NoCut(reasons.coupled(), tried, first_join(tried))
    return NoCut(reasons.no_axis(), tried, _first(find_stops(tried, sites)))


def _first(stops: Mapping[str, Stop]) -> Stop | None:
    return next(iter(stops.values()), None)


def _too_few(rows: int, batch: Size) -> Reason:
    if isinstance(batch, int):
        return reasons.one_row(rows)
    return reasons.few_dynamic_rows(rows, MIN_DYNAMIC_ROWS)


def rows_of(analysis: Analysis) -> int:
    """The extent of the cut axis; of a dynamic one, the value seen while compiling."""
    if isinstance(analysis.batch, int):
        return analysis.batch
    node, state = next(iter(analysis.seeds.items()))
    return size_hint(node.meta["val"].shape[state.dim])


def most_slices(analysis: Analysis) -> int:
    """How many slices the rows are enough for."""
    rows = rows_of(analysis)
    return rows if isinstance(analysis.batch, int) else rows // MIN_DYNAMIC_ROWS


def _best_seed(
    graph: fx.Graph, sites: Sequence[Site], unlikely: frozenset[fx.Node]
) -> tuple[Analysis | None, Analysis | None]:
    """The axis with the best score, if any is good, and the one that came nearest."""
    payload = {site.launch: site.payload for site in sites}
    total = sum(payload.values())
    leading = leading_to_computation(graph)
    best: Analysis | None = None
    nearest: Analysis | None = None
    best_score, nearest_score = 0, (0, -math.inf)
    for count, candidate in enumerate(_candidates(graph, unlikely)):
        if count >= MAX_CANDIDATES:
            break
        ways = _ways(graph, candidate.extent, {candidate.node: Sliced(candidate.dim)})
        scored = [(_score(way, payload, leading), way) for way in ways]
        score, found = max(scored, key=lambda x: x[0])
        # What cuts collectives comes nearer than what cuts nothing, and so joins nothing.
        gained = sum(payload.get(launch, 0) for launch in found.sliced_collectives())
        near = gained, 0 if gained else score
        if near > nearest_score:
            nearest, nearest_score = found, near
        if score > best_score:
            best, best_score = found, score
        rows = candidate.dim > 0 or not _cuts_tokens(found)  # none, or they were tried before
        if 2 * score > total and not found.inner_joins() and rows:
            break
    return best, nearest


def _ways(graph: fx.Graph, extent: Size, seeds: Mapping[fx.Node, Sliced]) -> Iterator[Analysis]:
    """The analyses along an axis: of single rows, and of as many at once as are scattered over.

    Slices whose tokens are a multiple of the ranks in number can be scattered by themselves.
    """
    plain = propagate(graph, extent, seeds)
    yield plain
    stopped = (scattered_over(node) for node in plain.refusals)
    for ranks in sorted({found[0] for found in stopped if found is not None}):
        units = quotient(extent, ranks)
        if isinstance(units, int) and units > 1:
            yield propagate(graph, units, seeds)


def _score(analysis: Analysis, payload: Mapping[fx.Node, int], leading: set[fx.Node]) -> int:
    """Bytes of collectives that are cut, less what is made whole and cut again for it.

    A partial sum that nothing is computed from is a parameter's gradient; another one is an
    activation whose every slice would be as large as the whole (a contraction along the cut
    dimension). What is joined for such a gradient only is not cut again. Tokens are cut where rows
    cannot be: slices that look back depend on each other.
    """
    gained = sum(payload.get(launch, 0) for launch in analysis.sliced_collectives())
    summed = sum(
        tensor_bytes(node.meta.get("val"))
        for node, cut in analysis.cuts.items()
        if isinstance(cut.out, Partial) and node in leading
    )
    joined = analysis.joined_bytes() + analysis.joined_bytes(leading)
    score = gained - joined - 2 * summed
    return score * 3 // 4 if _cuts_tokens(analysis) else score


def _cuts_tokens(analysis: Analysis) -> bool:
    """Whether slices are known to be of tokens: they look back, or deal tokens to the ranks."""
    return analysis.looks_back or bool(analysis.dealt)


def _candidates(graph: fx.Graph, unlikely: frozenset[fx.Node]) -> Iterator[Seed]:
    """Input dimensions, the likeliest first: indices, then data, then parameters."""
    inputs: list[tuple[int, int, fx.Node]] = []
    for position, node in enumerate(graph.nodes):
        if node.op != "placeholder":
            break
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or str(node.target).startswith("tangents"):
            continue
        if node in unlikely:
            continue
        inputs.append((int(value.is_floating_point()), position, node))
    for dim in range(2):
        for _, _, node in sorted(inputs, key=lambda x: x[:2]):
            shape = node.meta["val"].shape
            if dim < len(shape) and size_hint(shape[dim]) > 1:
                yield Seed(node, dim, to_size(shape[dim]))


def extended(graph: fx.Graph, analysis: Analysis) -> Analysis:
    """Extend the seeds until nothing that could be made in slices is made whole and cut."""
    seeds = dict(analysis.seeds)
    blocked: frozenset[fx.Node] = frozenset()

    def again(blocked: frozenset[fx.Node]) -> Analysis:
        return propagate(graph, analysis.batch, seeds, blocked, analysis.limits)

    for _ in range(MAX_ROUNDS):
        more: dict[fx.Node, Sliced] = {}
        for node, state in analysis.wanted:
            _pull(analysis, node, state, {**seeds}, more)
        blocked_now = blocked | analysis.unjoinable
        if not more and blocked_now == blocked:
            break
        seeds.update(more)
        blocked = blocked_now
        analysis = again(blocked)
    while analysis.unjoinable - blocked:  # what runs whole may need more to run whole
        blocked |= analysis.unjoinable
        analysis = again(blocked)
    return analysis


def _pull(
    analysis: Analysis,
    node: fx.Node,
    want: Sliced,
    known: Mapping[fx.Node, Sliced],
    found: dict[fx.Node, Sliced],
) -> bool:
    """Mark ``node`` and what it is made of as seeds, if it can be made in slices."""
    if node in known or node in found or node in analysis.states:
        return False
    if analysis.limits.pulled is not None and node not in analysis.limits.pulled:
        return False
    if node.op == "placeholder":
        found[node] = want
        return True
    pull = find_pull(node.target) if node.op == "call_function" else None
    if pull is None:
        return False
    call, nodes = make_call(analysis, node)
    outcome = pull(call, want)
    if not isinstance(outcome, Cut):
        return False
    found[node] = want
    for operand, state in zip(nodes, outcome.inputs, strict=True):
        if isinstance(state, Sliced):
            _pull(analysis, operand, state, known, found)
    return True
