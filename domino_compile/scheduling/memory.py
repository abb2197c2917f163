"""The memory of a step while a scheduled graph runs: which buffers exist, and how long they live.

``Machine`` adds up the results of one graph's units, to compare orders of that graph. This module
counts everything that is allocated while a step runs, as Inductor's generated code allocates and
frees it:

* The caller holds parameters and inputs from beginning to end.
* A view shares its base's buffer. An all-reduce works in place, unless its input is held or needed
  again; any other collective keeps its input until it is waited for.
* A fused group allocates the values that leave it, except those that other groups compute again
  more cheaply, plus the inputs of its own sums over rows, which are separate kernels. It reuses the
  buffer of an input that it reads for the last time if the sizes agree and each element is read
  where it is written: not for a reduce-scatter's input, which is put in another order. Any other
  kernel holds all its inputs and outputs at once.
* A buffer is freed after the last unit that uses it, including buffers that backward got from
  forward. Results stay, and forward's results stay while backward runs.

Kernels' own workspaces and the allocator's rounding are not counted.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from domino_compile._compat.operators import HigherOrderOperator
from domino_compile.graph.collectives import is_tangent, kind_of, tensor_bytes
from domino_compile.graph.nodes import VIEWS, users_of
from domino_compile.scheduling.kinds import (
    IN_PLACE,
    is_fusible,
    is_pointwise,
    is_work,
    sums_over_rows,
)
from domino_compile.scheduling.traffic import MOST_OPERATIONS, bytes_of, elements_of
from domino_compile.scheduling.units import Unit

aten = torch.ops.aten

#: The node that makes a buffer, and which of the node's values the buffer holds.
Buffer = tuple[fx.Node, int]
#: Operations that write into a copy of their first input.
SCATTERS = {
    aten.index_put.default,
    aten._unsafe_index_put.default,
    aten._unsafe_masked_index_put_accumulate.default,
    aten.scatter_add.default,
}
#: A pointwise value with several users is computed again in each kernel that uses it, unless it
#: reads more values than this (Inductor's ``realize_reads_threshold``) or needs more operations.
MOST_READS = 4


@dataclass(frozen=True)
class Result:
    """A tensor that a graph returns.

    Attributes:
        bytes: The size of the tensor.
        buffer: The number of its buffer; ``None`` if the caller holds that buffer anyway.
        buffer_bytes: The size of that buffer; the tensor may be a view of a part.
    """

    bytes: int
    buffer: int | None
    buffer_bytes: int


@dataclass(frozen=True)
class StepMemory:
    """The memory of a step while one of its graphs runs.

    Attributes:
        peak_bytes: The most memory that is allocated at once.
        results: The graph's results, in order.
    """

    peak_bytes: int
    results: tuple[Result, ...] = ()


def held_bytes(graph: fx.Graph) -> int:
    """Return the bytes of the parameters and inputs of a joint, forward or inference graph."""
    return sum(bytes_of(n) for n in _tensor_inputs(graph) if not is_tangent(n))


def step_memory(
    graph: fx.Graph, units: Sequence[Unit], held: int, forward: Sequence[Result] = ()
) -> StepMemory:
    """Return the memory of a step while a graph runs.

    Args:
        graph: A forward, backward or inference graph.
        units: The units of the graph, in the order in which they run.
        held: The bytes of parameters and inputs of the whole step.
        forward: The results of the matching forward graph, for a backward graph, if known.
    """
    inputs = _tensor_inputs(graph)
    owned: list[fx.Node] = []
    if any(is_tangent(n) for n in inputs):
        owned = [n for n in inputs if not str(n.target).startswith("primals")]
    walk = _Walk(graph, units)
    walk.take_inputs(inputs, owned)
    others = walk.take_results([n for n in inputs if not is_tangent(n)], owned, forward)
    return StepMemory(walk.peak(held + others), walk.results())


def _tensor_inputs(graph: fx.Graph) -> list[fx.Node]:
    return [n for n in graph.find_nodes(op="placeholder") if bytes_of(n)]


class _Walk:
    """A graph's buffers, and the positions of the units that make and read each of them."""

    def __init__(self, graph: fx.Graph, units: Sequence[Unit]) -> None:
        self.units = units
        self.output = graph.output_node()
        self.place = {node: i for i, unit in enumerate(units) for node in unit.nodes}
        self.buffers: dict[fx.Node, tuple[Buffer, ...]] = {}
        self.size: dict[Buffer, int] = {}
        self.inside: dict[Buffer, Buffer] = {}
        self.stored: set[Buffer] = set()
        self.readers: dict[Buffer, set[float]] = defaultdict(set)

    # -- which buffers exist ----------------------------------------------------------------

    def take_inputs(self, inputs: Sequence[fx.Node], owned: Sequence[fx.Node]) -> None:
        """Note the inputs that the graph may free; the other inputs are not counted here."""
        for node in inputs:
            self.buffers[node] = ((node, 0),)
            self.size[node, 0] = 0
        for node in owned:
            self.size[node, 0] = bytes_of(node)

    def take_results(
        self, inputs: Sequence[fx.Node], owned: Sequence[fx.Node], forward: Sequence[Result]
    ) -> int:
        """Let inputs that share a buffer in forward's results share one here.

        Forward's last results are backward's inputs.

        Returns:
            The bytes of forward's other results, which the caller holds.
        """
        count = len(forward) - len(inputs)
        kept = forward[max(0, count) :]
        if count < 0 or any(bytes_of(n) != r.bytes for n, r in zip(inputs, kept, strict=True)):
            return 0
        free, first = set(owned), dict[int, Buffer]()
        for node, result in zip(inputs, kept, strict=True):
            if node not in free:
                continue
            if result.buffer is None:
                self.size[node, 0] = 0
                continue
            buffer = first.setdefault(result.buffer, (node, 0))
            self.buffers[node] = (buffer,)
            self.size[node, 0] = result.buffer_bytes if buffer == (node, 0) else 0
        others = {r.buffer: r.buffer_bytes for r in forward[:count] if r.buffer not in first}
        return sum(size for number, size in others.items() if number is not None)

    def of(self, node: fx.Node) -> tuple[Buffer, ...]:
        """Return the buffers that hold a node's value."""
        buffers = self.buffers.get(node)
        if buffers is None:
            buffers = self.buffers[node] = self._made_or_shared(node)
        return buffers

    def _made_or_shared(self, node: fx.Node) -> tuple[Buffer, ...]:
        if (wrapped := _wrapped(node)) is not None:
            inside = [
                (wrapped, i) for i, x in enumerate(_tensors_in(wrapped)) if node in (wrapped, *x)
            ]
            self.size |= {(wrapped, i): bytes_of(x[-1]) for i, x in enumerate(_tensors_in(wrapped))}
            return tuple(inside)
        if is_work(node) and not _writes_in_place(node):
            value = node.meta.get("val")
            members = value if isinstance(value, (list, tuple)) else (value,)
            sizes = {(node, i): n for i, x in enumerate(members) if (n := tensor_bytes(x))}
            self.size |= sizes
            return tuple(sizes)
        if not node.all_input_nodes or (node not in self.place and not bytes_of(node)):
            return ()
        source = node.all_input_nodes[0]
        buffers = self.of(source)
        if getattr(node.target, "__name__", "") == "getitem":
            return tuple(b for b in buffers if b[0] is not source or b[1] == node.args[1])
        return buffers

    # -- who uses them ---------------------------------------------------------------------

    def _read(self) -> None:
        """Note the readers of each buffer; let all-reduces work in place."""
        for node in [*self.place, self.output]:
            here = self.place.get(node, math.inf)
            for x in node.all_input_nodes:
                for buffer in self.of(x):
                    self.readers[buffer].add(here)
        self._inline()
        for here, unit in enumerate(self.units):
            only = unit.nodes[0]
            if unit.launch and kind_of(only) not in IN_PLACE:
                arrived = min((r for b in self.of(only) for r in self.readers[b]), default=here)
                for buffer in self._given(only):
                    self.readers[buffer].add(arrived)
            elif unit.launch or only.target in SCATTERS:
                self._in_place(here, only)

    def _inline(self) -> None:
        """Let groups compute unstored values again: their readers read those values' inputs."""
        made_of: dict[Buffer, tuple[frozenset[Buffer], int]] = {}
        for node, here in self.place.items():
            if not is_pointwise(node) or not self.of(node):  # without elements, without a buffer
                continue
            parts = [b for x in node.all_input_nodes for b in self.of(x)]
            known = [made_of.get(b, (frozenset((b,)), 0)) for b in parts]
            reads = frozenset[Buffer]().union(*(r for r, _ in known))
            count = 1 + sum(n for _, n in known)
            (buffer,) = self.of(node)
            if len(node.users) > 1 and (len(reads) > MOST_READS or count > MOST_OPERATIONS):
                if self._in_two_kernels(node):
                    self.stored.add(buffer)
                continue
            if not self._only_fused(buffer):
                continue
            made_of[buffer] = reads, count
            for reader in self.readers[buffer] - {here}:
                for read in reads:
                    self.readers[read].add(reader)
            self.readers[buffer] = {here}

    def _only_fused(self, buffer: Buffer) -> bool:
        """Return whether only fused groups read a buffer."""
        return all(
            math.isfinite(place) and is_fusible(self.units[int(place)].nodes[0])
            for place in self.readers[buffer]
        )

    def _in_two_kernels(self, node: fx.Node) -> bool:
        """Return whether a value feeds both a sum over rows and another operation of its group.

        The gradient of a norm's weight is such a sum: it is not computed in the kernel of the rows.
        """
        unit = self.units[self.place[node]]
        for total in unit.nodes:
            if not sums_over_rows(total):
                continue
            inside = {total}
            for member in reversed(unit.nodes):
                if any(user in inside for user in users_of(member)):
                    inside.add(member)
            if node in inside and any(user not in inside for user in users_of(node)):
                return True
        return False

    def _given(self, node: fx.Node) -> list[Buffer]:
        return [self.inside.get(b, b) for x in node.all_input_nodes for b in self.of(x)]

    def _in_place(self, here: int, node: fx.Node) -> None:
        """Write a node's results into its inputs' buffers if nothing else needs those."""
        for buffer, result in zip(self._given(node), self.of(node), strict=False):
            if buffer != result and self.size[buffer] and max(self.readers[buffer]) <= here:
                self.readers[buffer] |= self.readers.pop(result, set())
                self.size[result] = 0
                self.inside[result] = buffer

    def peak(self, held: int) -> int:
        """Return the peak in bytes, including the ``held`` bytes of the caller."""
        self._read()
        made: dict[int, list[Buffer]] = defaultdict(list)
        freed: dict[float, list[Buffer]] = defaultdict(list)
        for buffer, size in self.size.items():
            place, readers = self.place.get(buffer[0], -1), self.readers[buffer]
            inside = place >= 0 and is_fusible(buffer[0]) and readers <= {place}
            if size and (not inside or buffer in self.stored):
                made[place].append(buffer)
                freed[max(readers, default=place)].append(buffer)
        live = peak = held + sum(self.size[b] for b in made[-1])
        live -= sum(self.size[b] for b in freed[-1])
        for here, unit in enumerate(self.units):
            live += sum(self.size[b] for b in made[here])
            over = self._written_over(freed[here], made[here]) if is_fusible(unit.nodes[0]) else 0
            peak = max(peak, live - over)
            live -= sum(self.size[b] for b in freed[here])
        return peak

    def _written_over(self, freed: Sequence[Buffer], made: Sequence[Buffer]) -> int:
        """Return the bytes of results that a fused group writes into buffers it no longer needs."""
        over, free = 0, {b for b in freed if b not in made}
        for buffer in made:
            size = self.size[buffer]
            if buffer in freed or not any(self.size[b] == size for b in free):
                continue
            fitting = (b for b in self._read_in_place(buffer) if b in free and self.size[b] == size)
            if (taken := next(fitting, None)) is not None:
                free.discard(taken)
                over += size
        return over

    def _read_in_place(self, buffer: Buffer) -> Iterator[Buffer]:
        """Yield the buffers from whose elements a kernel makes those at the same places of one."""
        elements, seen, todo = elements_of(buffer[0]), {buffer[0]}, [buffer[0]]
        while todo:
            node = todo.pop()
            yield from self.of(node)
            if node is not buffer[0] and self._is_in_memory(node, self.place[buffer[0]]):
                continue
            if not (is_pointwise(node) or node.target in VIEWS):
                continue
            made_of = [x for x in node.all_input_nodes if elements_of(x) == elements]
            todo += [x for x in made_of if x not in seen]
            seen.update(made_of)

    def _is_in_memory(self, node: fx.Node, here: int) -> bool:
        """Return whether a unit reads a value that another has made, and does not compute it."""
        place = self.place.get(node, here)
        return place != here and any(self.readers[b] != {place} for b in self.of(node))

    def results(self) -> tuple[Result, ...]:
        """Return the graph's results with their buffers."""
        numbers: dict[Buffer, int] = {}
        results = []
        arguments: Any = self.output.args[0]
        members = arguments if isinstance(arguments, (list, tuple)) else (arguments,)
        for node in members:
            if not isinstance(node, fx.Node) or not bytes_of(node):
                continue
            buffers = [b for x in self.of(node) if self.size[b := self.inside.get(x, x)]]
            number = numbers.setdefault(buffers[0], len(numbers)) if buffers else None
            size = self.size[buffers[0]] if buffers else 0
            results.append(Result(bytes_of(node), number, size))
        return tuple(results)


def _wrapped(node: fx.Node) -> fx.Node | None:
    """Return the partitioner's wrapper if a node is one, or is a member of its results."""
    while node.op == "call_function" and "val" in node.meta and _is_member(node):
        node = node.all_input_nodes[0]
    while node.op == "call_function" and "val" not in node.meta:
        if not _is_member(node):
            return node if isinstance(node.target, HigherOrderOperator) else None
        node = node.all_input_nodes[0]
    return None


def _tensors_in(node: fx.Node) -> list[tuple[fx.Node, ...]]:
    """Return the tensors among a wrapper's results, each with the path of members to it."""
    paths: list[tuple[fx.Node, ...]] = []
    for user in filter(_is_member, node.users):
        inner = _tensors_in(user)
        paths += [(user, *rest) for rest in inner] if inner else [(user,)]
    return [path for path in paths if bytes_of(path[-1])]


def _is_member(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", "") == "getitem" and len(node.all_input_nodes) == 1


def _writes_in_place(node: fx.Node) -> bool:
    """Return whether a node writes its value into its first input."""
    schema = getattr(node.target, "_schema", None)
    alias = schema.returns[0].alias_info if schema is not None and schema.returns else None
    return alias is not None and bool(alias.is_write)
