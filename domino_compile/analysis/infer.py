"""Choose where to cut: candidate input dimensions are tried, and the best one is taken."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import fx

from domino_compile.analysis import reasons
from domino_compile.analysis.dealt import scattered_over
from domino_compile.analysis.found import leading_to_computation
from domino_compile.analysis.propagate import Analysis, Need, make_call, propagate
from domino_compile.analysis.reasons import Reason
from domino_compile.analysis.stops import Stop, find_stops, first_join
from domino_compile.axes import Chunks, Partial, Size, Sliced, quotient, to_size
from domino_compile.graph.collectives import (
    Site,
    find_sites,
    is_tangent,
    size_hint,
    tensor_bytes,
)
from domino_compile.rules import Cut, find_pull

#: The most candidates that are tried if the batch is not named; no program was seen to need more.
MAX_CANDIDATES = 12
#: The most rounds of making wanted values in slices (each reaches values one step further back).
MAX_ROUNDS = 8
#: The fewest rows of a dynamic batch's slice: torch assumes that a dynamic extent is at least 2.
MIN_DYNAMIC_ROWS = 2


@dataclass(frozen=True)
class CutPlan:
    """The answer that the graph is cut, and how.

    Attributes:
        chunks: The extents of the slices.
        analysis: The cut of each operation.
        columns: Whether columns of products are cut, and not rows of the batch.
        stops: Where the cut ends in front of collectives that are not cut, by their names.
    """

    chunks: Chunks
    analysis: Analysis
    columns: bool = False
    stops: Mapping[str, Stop] = field(default_factory=dict)


@dataclass(frozen=True)
class NoCut:
    """The answer that the graph is not cut, and why.

    Attributes:
        reason: The reason, and the advice that goes with it.
        tried: The analysis of the axis that came nearest, if one was tried.
        stop: The operation that stops the cut along that axis, if one does.
    """

    reason: Reason
    tried: Analysis | None = None
    stop: Stop | None = None


@dataclass(frozen=True)
class Seed:
    """An input, its dimension at which a cut may begin, and the extent of that dimension."""

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

    An axis is good if it cuts many bytes of collectives and joins few. Any axis gives a right
    program; a bad one merely gives a slow one.

    Args:
        graph: A functional joint or inference graph.
        slices: The requested number of slices.
        named: The inputs that carry the batch, with the dimension; ``None`` to find them.
        unlikely: The inputs that are not tried (parameters).
        sites: The collectives to cut; by default all in the graph.
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
        best: Analysis | None = max(ways, key=_reach)
        assert best is not None
    else:
        best, tried = _best_seed(graph, sites, unlikely)
        if best is None:
            return _no_axis(tried, sites)
    rows = rows_of(best)
    parts = min(slices, most_slices(best))
    if parts < 2:
        return NoCut(_too_few(rows, best.batch), best)
    analysis = _with_gradients(graph, extended(graph, best), sites)
    if not {site.launch for site in sites} & set(analysis.sliced_collectives()):
        return NoCut(reasons.no_carrier(), analysis, _first(find_stops(analysis, sites)))
    stops = find_stops(analysis, sites)
    return CutPlan(Chunks.even(analysis.batch, parts), analysis, stops=stops)


def _reach(analysis: Analysis) -> tuple[int, int]:
    """Return how many collectives are cut and, if none is, how many operations."""
    collectives = len(analysis.sliced_collectives())
    return collectives, 0 if collectives else len(analysis.cuts)


def _no_axis(tried: Analysis | None, sites: Sequence[Site]) -> NoCut:
    """Explain that no axis is good: the nearest cuts no collective, or joins more than it cuts."""
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
    """Return the extent of the cut axis; if it is dynamic, its value at compile time."""
    if isinstance(analysis.batch, int):
        return analysis.batch
    node, state = next(iter(analysis.seeds.items()))
    return size_hint(node.meta["val"].shape[state.dim])


def most_slices(analysis: Analysis) -> int:
    """Return the largest number of slices into which the rows can be cut."""
    rows = rows_of(analysis)
    return rows if isinstance(analysis.batch, int) else rows // MIN_DYNAMIC_ROWS


def _best_seed(
    graph: fx.Graph, sites: Sequence[Site], unlikely: frozenset[fx.Node]
) -> tuple[Analysis | None, Analysis | None]:
    """Return the analysis with the best score, if any is good, and the one that came nearest."""
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
        score, analysis = max(scored, key=lambda x: x[0])
        # An axis that cuts collectives is nearer than one that cuts nothing, and so joins nothing.
        gained = sum(payload.get(launch, 0) for launch in analysis.sliced_collectives())
        near = gained, 0 if gained else score
        if near > nearest_score:
            nearest, nearest_score = analysis, near
        if score > best_score:
            best, best_score = analysis, score
        # If dimension 0 is the tokens, dimension 1 may be the batch.
        settled = candidate.dim > 0 or not _cuts_tokens(analysis)
        if 2 * score > total and not analysis.inner_joins() and settled:
            break
    return best, nearest


def _ways(graph: fx.Graph, extent: Size, seeds: Mapping[fx.Node, Sliced]) -> Iterator[Analysis]:
    """Yield the analyses along an axis: row by row, and in groups of a scatter's number of ranks.

    A slice can be scattered separately if its number of tokens is a multiple of the ranks.
    """
    plain = propagate(graph, extent, seeds)
    yield plain
    stopped = (scattered_over(node) for node in plain.refusals)
    for ranks in sorted({scatter[0] for scatter in stopped if scatter is not None}):
        units = quotient(extent, ranks)
        if isinstance(units, int) and units > 1:
            yield propagate(graph, units, seeds)


def _score(analysis: Analysis, payload: Mapping[fx.Node, int], leading: set[fx.Node]) -> int:
    """Return the bytes of cut collectives, less the bytes that are joined for it.

    A partial sum that nothing is computed from is a parameter's gradient. A value that is joined
    only for such a gradient is not cut again. Any other partial sum is an activation of which each
    slice would be as large as the whole (a contraction along the cut dimension). Tokens score less
    than rows, because slices that look back depend on each other.
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
    """Return whether slices are known to be tokens: they look back, or deal tokens to the ranks."""
    return analysis.looks_back or bool(analysis.dealt)


def _candidates(graph: fx.Graph, unlikely: frozenset[fx.Node]) -> Iterator[Seed]:
    """Yield input dimensions, the likeliest first: those of integers, then those of other data."""
    inputs: list[tuple[int, int, fx.Node]] = []
    for position, node in enumerate(graph.nodes):
        if node.op != "placeholder":
            break
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or is_tangent(node):
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
    """Extend the seeds until no value is made whole and then cut that could be made in slices."""
    seeds = dict(analysis.seeds)
    blocked: dict[fx.Node, Need] = {}

    def again() -> Analysis:
        return propagate(graph, analysis.batch, seeds, blocked, analysis.limits)

    for _ in range(MAX_ROUNDS):
        more: dict[fx.Node, Sliced] = {}
        for node, state in analysis.wanted:
            _pull(analysis, node, state, {**seeds}, more)
        # What cannot be joined now may not have to be once more values are made in slices.
        if not more and not analysis.unjoinable.keys() - blocked.keys():
            break
        seeds.update(more)
        blocked |= {} if more else analysis.unjoinable
        analysis = again()
    while analysis.unjoinable.keys() - blocked.keys():  # a whole operation may need others whole
        blocked |= analysis.unjoinable
        analysis = again()
    return analysis


def _with_gradients(graph: fx.Graph, analysis: Analysis, sites: Sequence[Site]) -> Analysis:
    """Cut incoming gradients like the outputs of the same shape, if this cuts more collectives.

    A gradient that goes straight into a collective (in a graph that ends with a scatter) cannot be
    pulled through it from the slices behind.
    """
    before = set(analysis.sliced_collectives())
    if before >= {site.launch for site in sites}:
        return analysis
    (output,) = graph.find_nodes(op="output")
    values = [(x, x.meta.get("val")) for x in output.all_input_nodes]
    cut = [(x.shape, analysis.states.get(n)) for n, x in values if isinstance(x, torch.Tensor)]
    more: dict[fx.Node, Sliced] = {}
    for tangent in graph.find_nodes(op="placeholder"):
        value = tangent.meta.get("val")
        if not (is_tangent(tangent) and isinstance(value, torch.Tensor)):
            continue
        alike = {state for shape, state in cut if shape == value.shape}
        (state,) = alike if len(alike) == 1 else (None,)
        if isinstance(state, Sliced) and tangent not in analysis.seeds:
            more[tangent] = state
    if not more:
        return analysis
    seeds = {**analysis.seeds, **more}
    tried = extended(graph, propagate(graph, analysis.batch, seeds, limits=analysis.limits))
    gained = set(tried.sliced_collectives()) > before
    return tried if gained and len(tried.inner_joins()) <= len(analysis.inner_joins()) else analysis


def _pull(
    analysis: Analysis,
    node: fx.Node,
    want: Sliced,
    known: Mapping[fx.Node, Sliced],
    pulled: dict[fx.Node, Sliced],
) -> bool:
    """Mark ``node`` and the values it is made of as seeds, if it can be made in slices."""
    if node in known or node in pulled or node in analysis.states:
        return False
    if analysis.limits.pulled is not None and node not in analysis.limits.pulled:
        return False
    if node.op == "placeholder":
        pulled[node] = want
        return True
    pull = find_pull(node.target) if node.op == "call_function" else None
    if pull is None:
        return False
    call, nodes = make_call(analysis, node)
    outcome = pull(call, want)
    if not isinstance(outcome, Cut):
        return False
    pulled[node] = want
    for operand, state in zip(nodes, outcome.inputs, strict=True):
        if isinstance(state, Sliced):
            _pull(analysis, operand, state, known, pulled)
    return True
