"""Run one operation cut in every way, and compare it with the operation on the whole.

A ``Sample`` is an operation with real arguments. ``cases`` lists the ways to cut it; ``check``
builds the graph of the one operation, analyses and slices it, runs it and compares.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from domino_compile.analysis import Analysis, CutPlan, propagate
from domino_compile.analysis.propagate import Need
from domino_compile.axes import Chunks, PartialSum, Sliced
from domino_compile.graph.subgraphs import value_of
from domino_compile.passes.slice import slice_graph

aten = torch.ops.aten
MODE = FakeTensorMode()


@dataclass(frozen=True)
class Count:
    """An argument ``0, 1, ..., extent - 1`` that the graph makes, in the given shape."""

    extent: int
    shape: tuple[int, ...]

    def emit(self, graph: fx.Graph) -> fx.Node:
        """Make it in a graph."""
        made = {"start": 0, "step": 1, "dtype": torch.int64, "device": "cpu"}
        iota = torch.ops.prims.iota.default
        node = graph.call_function(iota, (self.extent,), {**made, "requires_grad": False})
        fill(node)
        if self.shape == (self.extent,):
            return node
        node = graph.call_function(aten.view.default, (node, list(self.shape)))
        fill(node)
        return node


def counted(*shape: int) -> Count:
    """A count along the only dimension whose extent is not 1."""
    return Count(max(shape), shape)


@dataclass(frozen=True)
class Sample:
    """An operation, its arguments, and what must come out.

    Attributes:
        refused: (tensor operand, dimension) -> part of the reason. Everything else must be cut.
        blocks_refused: the same, for cuts in which the batch is not the whole dimension.
        pull_refused: dimension of the result -> part of the reason (where the rule has a pull).
        exact: compare bit for bit (nothing is computed, only moved).
        values: compare values (not so for uninitialised memory).
        min_rank: results of a lower rank are not compared (opaque states of generators).
        ranks: how many ranks run the program (collectives).
        device: what the analysis is told the tensors are on.
    """

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    refused: Mapping[tuple[int, int], str] = field(default_factory=dict)
    blocks_refused: Mapping[tuple[int, int], str] = field(default_factory=dict)
    pull_refused: Mapping[int, str] = field(default_factory=dict)
    exact: bool = True
    values: bool = True
    min_rank: int = 0
    ranks: int = 1
    device: str = "cpu"

    def tensors(self) -> list[torch.Tensor]:
        """The tensor operands, in order, each once."""
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        return list({id(x): x for x in leaves if isinstance(x, torch.Tensor)}.values())

    def __str__(self) -> str:
        return f"{self.op}{[tuple(t.shape) for t in self.tensors()]}"


@dataclass(frozen=True)
class Case:
    """One way to cut: the extent of the batch, its chunks, and the operands that are cut."""

    chunks: Chunks
    seeds: tuple[tuple[int, Sliced], ...]
    pull: Sliced | None = None


def chunkings(batch: int) -> list[Chunks]:
    """Even and uneven chunks, and chunks of one row, 2 and 3 of them."""
    found = {tuple(Chunks.even(batch, 2).sizes), (1, batch - 1)}
    if batch >= 3:
        found.add((batch - 2, 1, 1))
    return [Chunks(batch, sizes) for sizes in sorted(found)]


def layouts(extent: int) -> list[tuple[int, int]]:
    """``(batch, outer)`` for ``extent = outer * batch * inner``: alone, or one factor of it."""
    found = [(extent, 1)] if extent > 1 else []
    for factor in (2, 3):
        if extent % factor == 0 and extent // factor > 1:
            found += [(extent // factor, 1), (extent // factor, factor)]
    return found


def cases(sample: Sample) -> Iterator[Case]:
    """Each operand along each dimension, alone."""
    for index, tensor in enumerate(sample.tensors()):
        for dim, extent in enumerate(tensor.shape):
            for batch, outer in layouts(extent):
                options = chunkings(batch)
                for chunks in options if batch == extent else options[-1:]:
                    yield Case(chunks, ((index, Sliced(dim, outer)),))


def joint_cases(sample: Sample, limit: int = 16) -> Iterator[Case]:
    """Two operands cut at once, in agreeing and in contradicting ways."""
    single = [
        (batch, index, Sliced(dim, outer))
        for index, tensor in enumerate(sample.tensors())
        for dim, extent in enumerate(tensor.shape)
        for batch, outer in layouts(extent)
    ]
    pairs = [(a, b) for a, b in combinations(single, 2) if a[0] == b[0] and a[1] != b[1]]
    step = max(1, -(-len(pairs) // limit))
    for a, b in pairs[::step]:
        yield Case(chunkings(a[0])[-1], (a[1:], b[1:]))


def pull_cases(sample: Sample) -> Iterator[Case]:
    """The result wanted in slices, along each of its dimensions."""
    graph, node, _ = build(sample)
    del graph
    for dim, extent in enumerate(node.meta["val"].shape):
        for batch, outer in layouts(int(extent)):
            for chunks in chunkings(batch)[-2:]:
                yield Case(chunks, (), Sliced(dim, outer))


def build(sample: Sample) -> tuple[fx.Graph, fx.Node, list[fx.Node]]:
    """The graph of one operation (its members, if it has several results)."""
    owner = torch.nn.Module()
    graph = fx.Graph(owner)
    inputs: list[fx.Node] = []
    made: dict[int, fx.Node] = {}
    counts: list[Count] = []

    def placeholder(value: Any) -> Any:
        if isinstance(value, fx.GraphModule):
            return get_attr(value)
        if isinstance(value, Count):
            counts.append(value)
            return value
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) in made:
            return made[id(value)]
        node = made[id(value)] = graph.placeholder(f"x{len(inputs)}")
        with MODE:
            node.meta["val"] = torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device=sample.device
            )
        inputs.append(node)
        return node

    def get_attr(value: fx.GraphModule) -> fx.Node:
        name = f"function_{len(list(owner.children()))}"
        owner.add_module(name, value)
        return graph.get_attr(name)

    args, kwargs = pytree.tree_map(placeholder, (sample.args, sample.kwargs))
    if not inputs:
        graph.placeholder("unused").meta["val"] = 0
    numbers = {count: count.emit(graph) for count in counts}
    args, kwargs = pytree.tree_map(
        lambda x: numbers[x] if isinstance(x, Count) else x, (args, kwargs)
    )
    node = graph.call_function(sample.op, args, kwargs)
    fill(node)
    out: Any = node
    if isinstance(node.meta["val"], (tuple, list)):
        out = []
        for index, value in enumerate(node.meta["val"]):
            if isinstance(value, torch.Tensor) and value.dim() >= sample.min_rank:
                member = graph.call_function(operator.getitem, (node, index))
                member.meta["val"] = value
                out.append(member)
    else:
        out = graph.call_function(aten.clone.default, (node,))
        fill(out)
    graph.output(out)
    return graph, node, inputs


def fill(node: fx.Node) -> None:
    """Compute ``val`` of a node."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), value_of)
    with MODE:
        node.meta["val"] = node.target(*args, **kwargs)  # type: ignore[operator]


@dataclass
class Outcome:
    """What the analysis said of the operation, and whether numbers agree."""

    analysis: Analysis
    node: fx.Node
    graph: fx.Graph

    @property
    def cut(self) -> bool:
        """Whether the operation is done slice by slice."""
        return self.was_cut

    was_cut: bool = False
    reason: str = ""
    summed: bool = False


def check(sample: Sample, case: Case) -> Outcome:
    """Slice the operation in one way and compare with the whole.

    Raises:
        AssertionError: if the sliced program gives another result.
    """
    graph, node, inputs = build(sample)
    seeds = {inputs[index]: state for index, state in case.seeds}
    if case.pull is not None:
        seeds[node] = case.pull
    analysis = analyse(graph, case.chunks, seeds)
    outcome = Outcome(analysis, node, graph)
    cut = analysis.cuts.get(node)
    outcome.was_cut = cut is not None
    outcome.summed = cut is not None and (isinstance(cut.out, PartialSum) or cut.chain is not None)
    outcome.reason = analysis.refusals[node].reason if node in analysis.refusals else ""
    if not analysis.cuts:
        return outcome  # the program is as it was
    slice_graph(graph, CutPlan(case.chunks, analysis))
    graph.lint()
    for one, two in zip(whole(sample), run_ranks(graph, sample), strict=True):
        compare(sample, one, two, sample.exact and not outcome.summed, case)
    return outcome


_last_whole: tuple[Sample, list[Any]] | None = None


def whole(sample: Sample) -> list[Any]:
    """The results of the operation on the whole (those of the last sample are remembered)."""
    global _last_whole
    if _last_whole is None or _last_whole[0] is not sample:
        graph, *_ = build(sample)
        _last_whole = sample, run_ranks(graph, sample)
    return _last_whole[1]


def analyse(graph: fx.Graph, chunks: Chunks, seeds: dict[fx.Node, Sliced]) -> Analysis:
    """Propagate; what has per-slice results that are needed whole runs whole."""
    blocked: dict[fx.Node, Need] = {}
    while True:
        analysis = propagate(graph, chunks.total, seeds, blocked)
        if not analysis.unjoinable.keys() - blocked.keys():
            return analysis
        blocked |= analysis.unjoinable


TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-5, torch.complex64: 1e-5}


def compare(sample: Sample, want: Any, got: Any, exact: bool, case: Case) -> None:
    """Shapes and types are equal; values are equal or close relative to the largest."""
    about = (str(sample), case)
    assert want.shape == got.shape and want.dtype == got.dtype, (about, want.shape, got.shape)
    if not sample.values:
        return
    if exact or not (want.dtype.is_floating_point or want.dtype.is_complex):
        same = (want == got) | ((want != want) & (got != got))
        assert bool(same.all()), (about, want[~same], got[~same])
        return
    dtype = want.dtype
    wide = torch.complex128 if want.dtype.is_complex else torch.float64
    want, got = want.to(wide), got.to(wide)
    equal = (want == got) | ((want != want) & (got != got))
    want, got = want[~equal], got[~equal]
    if not want.numel():
        return
    limit = max(TOLERANCE.get(t, 1e-12) for t in (dtype, sample.tensors()[0].dtype))
    assert (want - got).abs().max() <= limit * want.abs().max(), (about, want, got)


# -- running -----------------------------------------------------------------------------------

#: Operations that cannot run here, or that talk to other ranks: all ranks' arguments -> results.
OVERRIDES: dict[Any, Callable[[list[tuple[Any, ...]]], list[Any]]] = {}


def run_ranks(graph: fx.Graph, sample: Sample) -> list[Any]:
    """The results of all ranks, each with data of its own."""
    tensors = sample.tensors()
    ranks = [[t * (r + 1) + r if r else t for t in tensors] or [0] for r in range(sample.ranks)]
    return [x for result in run(graph, ranks) for x in pytree.tree_leaves(result)]


def run(graph: fx.Graph, inputs: list[list[Any]], owner: Any = None) -> list[Any]:
    """Run a graph on every rank in step; ``owner`` holds its constants and its functions."""
    owner = owner or graph.owning_module
    env: dict[fx.Node, list[Any]] = {}
    todo = [iter(values) for values in inputs]
    result: list[Any] = []
    for node in graph.nodes:
        if node.op == "placeholder":
            env[node] = [next(values) for values in todo]
            continue
        if node.op == "get_attr":
            env[node] = [getattr(owner, str(node.target)) for _ in inputs]
            continue
        calls = [
            fx.node.map_arg((node.args, node.kwargs), lambda n, r=r: env[n][r])
            for r in range(len(inputs))
        ]
        if node.op == "output":
            result = [args[0] for args, _ in calls]
        elif node.target in OVERRIDES:
            env[node] = OVERRIDES[node.target]([(*a, *k.values()) for a, k in calls])
        else:
            env[node] = [node.target(*a, **k) for a, k in calls]
    return result
