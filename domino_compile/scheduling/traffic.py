"""Memory traffic of a graph's units, and their expensive operations.

A unit reads each value from outside once, and writes each value that is needed outside once. But a
pointwise value that only fused groups use need not be written: each of them can compute it again
from its inputs. Inductor does so for cheap values, and the partitioner for values that forward
would save for backward. So a norm in bf16 that computes in float32 moves only its bf16 input and
the statistics through memory::

    forward     x (bf16) -> float32 -> statistics       reads x, writes the statistics
    backward    x (bf16) -> float32 -> gradient         reads x and the statistics

The model assumes that a value is computed again if that moves fewer bytes than writing and reading
it. A group whose values are all computed again elsewhere is not a kernel at all.

Fused kernels are limited by memory bandwidth, with a few exceptions: random numbers, and the sines,
cosines and powers of a rotary embedding, which are computed again for every element they multiply.
So are the scales of float8 casts, which torchao derives in float64 from the largest values. Writing
in another order in memory than reading, as these casts do, takes no longer: Inductor's kernels move
square tiles.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import fx

from domino_compile._compat.operators import prims
from domino_compile.cost.fused import Fused
from domino_compile.graph.collectives import size_hint, tensor_bytes
from domino_compile.graph.nodes import is_free, is_returned, users_of
from domino_compile.graph.numbering import value_numbers
from domino_compile.ops.materialise import materialise
from domino_compile.ops.random_slice import random_slice
from domino_compile.scheduling.kinds import (
    is_folded,
    is_fusible,
    is_pointwise,
    reduced_width,
    sums_over_rows,
)

aten = torch.ops.aten

#: A value that takes more operations than this is not computed again (Inductor's
#: ``realize_opcount_threshold``).
MOST_OPERATIONS = 30
#: Operations that take as long per element as moving several bytes.
HARD_FUNCTIONS = {
    aten.cos.default,
    aten.sin.default,
    aten.pow.Scalar,
    aten.pow.Tensor_Tensor,
}
HARD = HARD_FUNCTIONS | {prims.inductor_random.default, random_slice}
#: Divisions, which are hard in float64 only.
DIVISIONS = {aten.reciprocal.default, aten.div.Tensor, aten.div.Scalar}
#: How many times longer than a sine the scale of a float8 cast takes: a division in float64, with
#: the conversions, the logarithm and the power of two around it. Set so that the compute of a step
#: of a Llama in rowwise float8 is right (H200, 4 layers of llama3-8b, 2 x 8192 tokens, TP=8: 36.7
#: ms, of which float8 kernels take 20.9). There Inductor computes 4.0e9 such scales, one for each
#: element of every cast whose scale it does not hold for a whole row. It is then also right for
#: llama3-70b (43.5 ms, measured 43.6). With scales of whole tensors, where these kernels write both
#: orders and no scale is computed for each element, they take 4.6 ms: the order is not what costs.
SCALE_WEIGHT = 1.2
#: Inductor keeps rows of up to this many elements in registers throughout a kernel.
KEPT_ROW = 1024


@dataclass
class Traffic:
    """The bytes that one unit moves, and its expensive operations.

    Attributes:
        reads: Values that it reads, with the bytes of each that it needs.
        writes: Values that it writes, with their bytes.
        hard: For each hard operation that it computes, the value of the unit whose elements need
            it.
        wide: Whether it reduces rows of more than ``KEPT_ROW`` elements.
        sums: For each sum over rows that it computes, the summed value.
    """

    reads: dict[fx.Node, int] = field(default_factory=dict)
    writes: dict[fx.Node, int] = field(default_factory=dict)
    hard: dict[fx.Node, fx.Node] = field(default_factory=dict)
    wide: bool = False
    sums: dict[fx.Node, fx.Node] = field(default_factory=dict)

    @property
    def fused(self) -> Fused:
        """Return the quantities that determine the time of a fused kernel."""
        summed = sum(map(elements_of, self.sums.values()))
        return Fused(self.bytes, self.hard_elements, self.wide, len(self.sums), summed)

    @property
    def bytes(self) -> int:
        """Return all bytes that are read or written."""
        return sum(self.reads.values()) + sum(self.writes.values())

    @property
    def hard_elements(self) -> int:
        """Return the number of elements that hard operations compute, weighted."""
        return sum(self.hard_sizes.values())

    @property
    def hard_sizes(self) -> dict[fx.Node, int]:
        """Return, for each value that hard operations are computed for, their weighted number."""
        sizes: Counter[fx.Node] = Counter()
        for operation, value in self.hard.items():
            weight = 1.0 if operation.target in HARD else SCALE_WEIGHT
            sizes[value] += round(weight * elements_of(value))
        return dict(sizes)


def traffic_of(units: Sequence[Sequence[fx.Node]]) -> list[Traffic]:
    """Return the traffic of each unit.

    Args:
        units: The nodes of each unit, in the order of the graph; a unit that is not a fused group
            has one node.
    """
    unit_of = {node: number for number, nodes in enumerate(units) for node in nodes}
    inlining = _Inlining(unit_of)
    per_unit = [Traffic() for _ in units]
    for number, traffic in enumerate(per_unit):
        if inlining.is_kernel(units[number]):
            _take(traffic, units[number], inlining)
    for traffic in per_unit:
        for value in traffic.reads:
            if (maker := _maker_of(value)) in unit_of:
                per_unit[unit_of[maker]].writes[value] = inlining.bytes_of(value)
    for node, number in unit_of.items():
        if is_returned(node):
            per_unit[number].writes[node] = inlining.bytes_of(node)
    return per_unit


def _take(traffic: Traffic, nodes: Iterable[fx.Node], inlining: _Inlining) -> None:
    """Record what a unit of these nodes reads and computes."""
    inside = set(nodes)
    rows = any(map(reduced_width, inside))
    for node in nodes:
        for x in node.all_input_nodes:
            source = inlining.base_of(x)
            for value in inlining.made_of.get(source, (source,)):
                if value in inside or is_folded(value):
                    continue
                whole = inlining.bytes_of(value)
                size = min(inlining.bytes_of(x), whole) if value is source else whole
                traffic.reads[value] = min(whole, traffic.reads.get(value, 0) + size)
        for operation in inlining.hard_for(node, inside):
            if operation.target in DIVISIONS and (
                (rows and is_scale_of_rows(operation)) or not inlining.is_computed(node, inside)
            ):
                continue
            known = traffic.hard.setdefault(operation, node)
            if elements_of(node) > elements_of(known):
                traffic.hard[operation] = node
        traffic.wide = traffic.wide or reduced_width(node) > KEPT_ROW
        if sums_over_rows(node) and inlining.base_of(node.all_input_nodes[0]) in inside:
            traffic.sums[node] = node.all_input_nodes[0]


class _Inlining:
    """The values that are computed again, and their inputs; collected in one walk along the graph.

    Attributes:
        made_of: For each value of a fused group that is not in memory, the values in memory that it
            is computed from.
        base_of, bytes_of: The functions of these names, which remember their answers.
    """

    def __init__(self, unit_of: Mapping[fx.Node, int]) -> None:
        # Both are asked for several times for each value, and the graph stays as it is.
        self.base_of, self.bytes_of = cache(base_of), cache(bytes_of)
        self._unit_of = unit_of
        self.made_of: dict[fx.Node, tuple[fx.Node, ...]] = {}
        self._operations: dict[fx.Node, int] = {}
        self._hard: dict[fx.Node, tuple[fx.Node, ...]] = {}
        self._written: set[fx.Node] = set()
        self._alike = _alike(unit_of)
        for node in sorted(unit_of):
            if is_pointwise(node) or (is_fusible(node) and not node.all_input_nodes):
                self._take(node)
            elif self._used_outside(node):
                self._written.add(node)

    def is_kernel(self, nodes: Sequence[fx.Node]) -> bool:
        """Return whether a unit of these nodes leaves a value that is not computed again."""
        return not is_fusible(nodes[0]) or any(node in self._written for node in nodes)

    def is_computed(self, node: fx.Node, inside: set[fx.Node]) -> bool:
        """Return whether a unit of the nodes ``inside`` computes a node that is one of them.

        It does not if only other units need the value, and compute it again.
        """
        return node not in self.made_of or any(user in inside for user in users_of(node))

    def hard_for(self, node: fx.Node, inside: set[fx.Node]) -> Iterator[fx.Node]:
        """Yield the hard operations computed for a node's elements in a unit of these nodes."""
        if is_hard(node):
            yield self._alike.get(node, node)
        if is_pointwise(node):
            for source in map(self.base_of, node.all_input_nodes):
                if source in self.made_of or source in inside:
                    yield from self._hard.get(source, ())

    def _take(self, node: fx.Node) -> None:
        sources = [self.base_of(x) for x in node.all_input_nodes]
        parts = dict.fromkeys(p for x in sources for p in self.made_of.get(x, (x,)))
        operations = 1 + sum(self._operations.get(x, 0) for x in sources if x in self.made_of)
        hard = dict.fromkeys(h for x in sources for h in self._hard.get(x, ()))
        if is_hard(node):
            hard[self._alike.get(node, node)] = None
        if hard:
            self._hard[node] = tuple(hard)
        if self._is_in_memory(node, parts, operations):
            self._written.add(node)
            self._hard.pop(node, None)
            return
        self.made_of[node] = tuple(parts)
        self._operations[node] = operations

    def _is_in_memory(self, node: fx.Node, parts: Mapping[fx.Node, None], operations: int) -> bool:
        if node.target is materialise:
            return True
        return self._used_outside(node) and not self._cheaper_inlined(node, parts, operations)

    def _cheaper_inlined(
        self, node: fx.Node, parts: Mapping[fx.Node, None], operations: int
    ) -> bool:
        if operations > MOST_OPERATIONS:
            return False
        if not all(user in self._unit_of and is_fusible(user) for user in users_of(node)):
            return False
        moved = sum(
            self.bytes_of(part) * (1 if self._in_memory(part) else 2)
            for part in parts
            if not is_folded(part)
        )
        return moved < 2 * self.bytes_of(node)

    def _in_memory(self, value: fx.Node) -> bool:
        return value not in self._unit_of or value in self._written

    def _used_outside(self, node: fx.Node) -> bool:
        here = self._unit_of[node]
        return any(self._unit_of.get(user) != here for user in users_of(node))


def is_hard(node: fx.Node) -> bool:
    """Return whether an operation takes as long per element as moving several bytes.

    A single number is computed once for each thread, not for each element.
    """
    if node.target in DIVISIONS:
        value = node.meta["val"]
        return value.dtype == torch.float64 and elements_of(node) > 1
    return node.target in HARD


def is_scale_of_rows(operation: fx.Node) -> bool:
    """Return whether a division in float64 yields one number for each row.

    A kernel that reduces rows computes it once for each row.
    """
    return operation.target in DIVISIONS and size_hint(operation.meta["val"].shape[-1]) == 1


def _alike(nodes: Iterable[fx.Node]) -> dict[fx.Node, fx.Node]:
    """Return, for each division in float64 that repeats another one, that other one.

    Projections of one input each derive its scale. A captured graph still holds all these copies,
    which ``normalise`` or the partitioner merges.
    """
    divisions = [node for node in nodes if node.target in DIVISIONS and is_hard(node)]
    if not divisions:
        return {}
    everything = divisions[0].graph.nodes
    calls = (node for node in everything if node.op == "call_function")
    same = value_numbers(node for node in calls if is_free(node) or is_fusible(node))
    return {node: same[node] for node in divisions}


def base_of(node: fx.Node) -> fx.Node:
    """Return the value that a view shows; for a member of several results, the member."""
    while node.op == "call_function" and is_free(node) and bytes_of(node):
        inputs = node.all_input_nodes
        if not inputs or not _is_tensor_or_views(inputs[0]):
            break
        node = inputs[0]
    return node


def _is_tensor_or_views(node: fx.Node) -> bool:
    """Return whether a node is one tensor, or several views of one, as ``split`` returns."""
    if isinstance(node.meta.get("val"), torch.Tensor):
        return True
    return node.op == "call_function" and is_free(node) and bool(node.all_input_nodes)


def _maker_of(value: fx.Node) -> fx.Node:
    """Return the operation that makes a value; for a member, the operation with the results."""
    while value.op == "call_function" and is_free(value) and value.all_input_nodes:
        value = value.all_input_nodes[0]
    return value


def elements_of(node: fx.Node) -> int:
    """Return the number of elements of a node's value; 0 if it is not a tensor."""
    value = node.meta.get("val")
    return size_hint(value.numel()) if isinstance(value, torch.Tensor) else 0


def bytes_of(node: fx.Node) -> int:
    """Return the bytes of a node's value, or of all its members together.

    An operation that the partitioner wraps (``_compat.operation_of``) has no value of its own;
    its members have.
    """
    if "val" not in node.meta:
        members = (u for u in node.users if u.op == "call_function" and is_free(u))
        return sum(map(bytes_of, members))
    return tensor_bytes(node.meta["val"])
