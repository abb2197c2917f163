"""A graph as units of work: fused groups of operations, matrix products, collectives.

Costing operations one by one ignores fusion and puts waits far too early; a unit is what Inductor
will compile to one kernel, or a few. Four kinds of nodes are not units: views and other operations
that cost nothing, constants that are folded into the kernels that use them, waits, and inputs. They
are placed where they are first needed.

Grouping: the *level* of a node is the largest number of barriers (matrix products, attention,
collectives, operations that never fuse) on a path to it. Connected fusible nodes of one level and
one slice form one group. A path that leaves a group through a barrier arrives at a higher level, so
groups do not depend on each other in a cycle; the one exception (through another slice or a whole
value) is detected, and such groups are split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import fx

from domino_compile._compat.operators import prims
from domino_compile.cost import CostModel
from domino_compile.cost.model import is_attention, is_matmul, slowdown, work_of
from domino_compile.graph.collectives import (
    group_of,
    is_launch,
    is_tangent,
    is_wait,
    kind_of,
    tensor_bytes,
)
from domino_compile.graph.nodes import is_free, users_of
from domino_compile.graph.tags import Piece, is_in_order, piece_of
from domino_compile.scheduling.kinds import (
    IN_PLACE,
    draws,
    is_anchor,
    is_fusible,
    is_work,
    mutates,
)
from domino_compile.scheduling.traffic import Traffic, traffic_of

aten = torch.ops.aten

#: For each node that is work, and the output, its ``sources``.
Near: TypeAlias = Mapping[fx.Node, Sequence[tuple[fx.Node, bool]]]


@dataclass
class Unit:
    """A piece of work that is scheduled as one.

    Attributes:
        nodes: The nodes of the unit, in graph order.
        launch: Whether it starts a collective; it then costs no compute, and ``cost_us`` is
            its time on the wire.
        cost_us: The predicted time.
        group: The process group of a launch.
        piece: The slice or part it belongs to, ``None`` for whole work.
        after: The units whose results it needs.
        after_wire: The launches whose collectives it needs completed.
        out_bytes: The bytes that it leaves in memory.
        slowdown: For compute, its predicted time beside a collective divided by ``cost_us``; for a
            launch, the collective's time beside compute divided by ``cost_us``.
        regained: For a launch, the share of the time that compute waits for its collective which
            compute regains afterwards (``links.contention``).
        traffic: What it reads and writes.
        recomputed: Whether it recomputes forward's values in backward (``mark_recomputed``).
        keeps_input: Whether it is a launch whose input stays in memory until the collective is
            waited for.
    """

    index: int
    nodes: list[fx.Node]
    launch: bool
    cost_us: float
    group: str | None = None
    piece: Piece | None = None
    after: set[int] = field(default_factory=set)
    after_wire: set[int] = field(default_factory=set)
    out_bytes: int = 0
    slowdown: float = 1.0
    traffic: Traffic = field(default_factory=Traffic)
    recomputed: bool = False
    keeps_input: bool = False
    regained: float = 0.0

    @property
    def is_fused(self) -> bool:
        """Return whether it is a group of operations that Inductor fuses, or one such operation."""
        return not (self.launch or is_matmul(self.nodes[0]) or is_attention(self.nodes[0]))

    @property
    def name(self) -> str:
        """Return the name of its main node: product, collective, or the last of a fused group."""
        main = next((n for n in self.nodes if is_anchor(n)), self.nodes[-1])
        return main.name


@dataclass
class UnitGraph:
    """The units of a graph, in an order that respects their dependencies.

    Attributes:
        units: The units of the graph.
        input_uses: For each input that can be freed in the graph: its bytes and the units that
            read it.
        kept: The units whose results are outputs of the graph, which are never freed.
    """

    units: list[Unit]
    input_uses: list[tuple[int, set[int]]]
    kept: set[int]


def build_units(
    graph: fx.Graph, cost: CostModel, kind: Callable[[fx.Node], Hashable] = piece_of
) -> UnitGraph:
    """Group the nodes of a graph into units, with costs and dependencies.

    Args:
        graph: The graph.
        cost: The model that predicts times.
        kind: Nodes of different kinds are never fused; by default those of different slices.
    """
    nodes = [n for n in graph.nodes if is_work(n)]
    near: Near = {n: tuple(sources(n)) for n in [*nodes, graph.output_node()]}
    units, order = _grouped(nodes, _fused_groups(graph, kind, near, apart=False), cost, near)
    if len(order) < len(units):
        # A slice's value passes through a joined one and back, as in the largest value of a batch
        # that every slice is scaled by: a group of that slice needs its own results.
        units, order = _grouped(nodes, _fused_groups(graph, kind, near, apart=True), cost, near)
    if len(order) < len(units):
        circular = set(range(len(units))) - set(order)
        split = [[n] for i in circular for n in units[i].nodes]
        units = _connect([units[i].nodes for i in order] + split, cost, near)
        order = _topological(units)
    units = _renumber(units, order)
    return UnitGraph(units, *_memory(graph, units, near))


def _grouped(
    nodes: Sequence[fx.Node], groups: Mapping[fx.Node, fx.Node], cost: CostModel, near: Near
) -> tuple[list[Unit], list[int]]:
    """Return the units of a grouping, and an order of those that are on no cycle."""
    members: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    for node in nodes:
        members[groups.get(node, node)].append(node)
    units = _connect(list(members.values()), cost, near)
    return units, _topological(units)


def sources(node: fx.Node) -> Iterator[tuple[fx.Node, bool]]:
    """Yield the work and inputs that a node depends on, past free nodes, and whether by a wait."""
    stack = [(x, False) for x in node.all_input_nodes]
    seen: set[fx.Node] = set()
    while stack:
        x, waited = stack.pop()
        if x in seen:
            continue
        seen.add(x)
        if is_work(x) or x.op in ("placeholder", "get_attr"):
            yield x, waited
        else:
            stack.extend((y, waited or is_wait(x)) for y in x.all_input_nodes)


def _fused_groups(
    graph: fx.Graph, kind: Callable[[fx.Node], Hashable], near: Near, apart: bool
) -> dict[fx.Node, fx.Node]:
    """Return, for each fusible node, the representative of its group.

    Args:
        graph: The graph.
        kind: Nodes of different kinds are never fused.
        near: What each node depends on.
        apart: Whether to fuse no nodes with a value of another kind between them.
    """
    level: dict[fx.Node, int] = {}
    parent: dict[fx.Node, fx.Node] = {}

    def find(node: fx.Node) -> fx.Node:
        while parent[node] is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for node in graph.nodes:
        level[node] = max(
            (level[x] + (is_wait(x) or is_anchor(x)) for x in node.all_input_nodes), default=0
        )
        if apart and is_fusible(node):
            others = (x for x, _ in near[node] if is_fusible(x) and kind(x) != kind(node))
            level[node] = max([level[node], *(level[x] + 1 for x in others)])
    _sink(level, kind, near)
    for node in graph.nodes:
        if is_fusible(node) and not draws(node):
            parent[node] = node
            for x, waited in near[node]:
                joinable = x in parent and not waited and level[x] == level[node]
                if joinable and kind(x) == kind(node):
                    parent[find(x)] = find(node)
    return {node: find(node) for node in parent}


def _connect(groups: Iterable[list[fx.Node]], cost: CostModel, near: Near) -> list[Unit]:
    """Make units from groups of nodes, with costs and dependencies."""
    chosen = list(groups)
    traffic = traffic_of(chosen)
    units = [
        _unit(index, nodes, cost, moved)
        for index, (nodes, moved) in enumerate(zip(chosen, traffic, strict=True))
    ]
    of = {node: unit for unit in units for node in unit.nodes}
    for unit in units:
        for node in unit.nodes:
            for x, waited in near[node]:
                if x in of and of[x] is not unit:
                    unit.after.add(of[x].index)
                    if waited and of[x].launch:
                        unit.after_wire.add(of[x].index)
    _order_mutations(of)
    _in_order(unit for unit in units if draws(unit.nodes[0]))
    _in_order(unit for unit in units if unit.launch and is_in_order(unit.nodes[0]))
    return units


def _in_order(units: Iterable[Unit]) -> None:
    """Keep the order of units: random draws, collectives with ranks whose plans may differ."""
    for first, second in pairwise(sorted(units, key=lambda u: u.nodes[0]._sort_key)):
        second.after.add(first.index)


def _sink(level: dict[fx.Node, int], kind: Callable[[fx.Node], Hashable], near: Near) -> None:
    """Give values without inputs (random numbers, constants) the level of their first fusible user.

    Inductor computes them there; their position in the graph does not matter.
    """
    floating: dict[fx.Node, None] = {}
    for node, neighbours in near.items():
        if is_fusible(node) and not draws(node):
            made_of = (x for x, _ in neighbours if x.target is not prims.inductor_seeds.default)
            if all(x in floating for x in made_of):
                floating[node] = None
    beside: dict[fx.Node, int] = {}
    for node in reversed(floating):
        users = [u for u in users_of(node) if is_fusible(u) and kind(u) == kind(node)]
        levels = [beside.get(u) if u in floating else level[u] for u in users]
        if known := [number for number in levels if number is not None]:
            beside[node] = min(known)
    level |= beside


def _order_mutations(of: dict[fx.Node, Unit]) -> None:
    """Let a node that writes into its input run after all readers that precede it in the graph."""
    for node, unit in of.items():
        if not mutates(node) or is_launch(node) or not node.all_input_nodes:
            continue
        base = node.all_input_nodes[0]
        seen, earlier = [base], True
        for value in seen:
            seen.extend(u for u in value.users if is_free(u) and u not in seen and u.op != "output")
        readers = {u for value in seen for u in value.users if u in of}
        for reader in sorted(readers, key=lambda n: n._sort_key):
            earlier = earlier and reader is not node
            if of[reader] is unit:
                continue
            first, second = (of[reader], unit) if reader < node else (unit, of[reader])
            second.after.add(first.index)


def _unit(index: int, nodes: list[fx.Node], cost: CostModel, traffic: Traffic) -> Unit:
    only = nodes[0]
    unit = Unit(index, nodes, is_launch(only), 0.0, piece=piece_of(only), traffic=traffic)
    unit.out_bytes = sum(traffic.writes.values())
    if unit.launch:
        unit.cost_us, unit.group = cost.wire_us(only), group_of(only)
        unit.keeps_input = kind_of(only) not in IN_PLACE
        unit.out_bytes = tensor_bytes(only.meta.get("val"))
        unit.slowdown, unit.regained = cost.wire_slowdown(only), cost.regained
        return unit
    work = work_of(only)
    if work is None:
        unit.cost_us, beside = cost.fused_us(traffic.fused)
    else:
        unit.cost_us, beside = cost.work_us(work, traffic.bytes)
    unit.slowdown = slowdown(unit.cost_us, beside)
    return unit


def _topological(units: list[Unit]) -> list[int]:
    """Return indices in dependency order, earliest first; some are missing if there is a cycle."""
    import heapq

    waiting = {unit.index: len(unit.after) for unit in units}
    users: dict[int, list[int]] = defaultdict(list)
    for unit in units:
        for other in unit.after:
            users[other].append(unit.index)
    heap = [index for index, count in waiting.items() if count == 0]
    heapq.heapify(heap)
    order: list[int] = []
    while heap:
        index = heapq.heappop(heap)
        order.append(index)
        for user in users[index]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(heap, user)
    return order


def _renumber(units: list[Unit], order: list[int]) -> list[Unit]:
    new = {old: index for index, old in enumerate(order)}
    result = [units[old] for old in order]
    for unit in result:
        unit.index = new[unit.index]
        unit.after = {new[i] for i in unit.after}
        unit.after_wire = {new[i] for i in unit.after_wire}
    return result


def is_backward(graph: fx.Graph) -> bool:
    """Return whether a graph is a backward or joint one: gradients of outputs are inputs."""
    return any(map(is_tangent, graph.find_nodes(op="placeholder")))


def _memory(
    graph: fx.Graph, units: list[Unit], near: Near
) -> tuple[list[tuple[int, set[int]]], set[int]]:
    """Return the freeable inputs with the units that read them, and the units of the outputs."""
    of = {node: unit for unit in units for node in unit.nodes}
    outputs = {x for x, _ in near[graph.output_node()]}
    kept = {of[x].index for x in outputs if x in of}
    backward = is_backward(graph)
    inputs: dict[fx.Node, set[int]] = defaultdict(set)
    for unit in units:
        for node in unit.nodes:
            for x, _ in near[node]:
                if x.op == "placeholder" and backward and not str(x.target).startswith("primals"):
                    inputs[x].add(unit.index)
    return [(tensor_bytes(x.meta.get("val")), uses) for x, uses in inputs.items()], kept
