"""The memory of a step while a scheduled graph runs: which buffers there are, and how long.

``Machine`` weighs what the units of one graph leave behind, to compare orders of it. Here all is
counted that is allocated while a step runs, as Inductor's generated code allocates and frees it:

* The caller holds parameters and inputs from beginning to end.
* A view is in its base's buffer. An all-reduce works in the buffer that it is given, unless that is
  held or needed once more; any other collective keeps what it reads until it is waited for.
* A fused group makes what leaves it, but for what other groups had better compute anew, and what
  its own sums over rows read, which are kernels of their own. It writes a result over what it reads
  for the last time where sizes agree. Any other kernel has all that it reads and makes at once.
* A buffer is freed behind the last unit that uses it, also what backward got from forward. Results
  stay, and so do forward's while backward runs.

Left out is what kernels allocate for themselves (workspaces), and the allocator's rounding.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from domino_compile._compat.operators import HigherOrderOperator
from domino_compile.graph.collectives import kind_of, tensor_bytes
from domino_compile.graph.nodes import users_of
from domino_compile.scheduling.kinds import is_fusible, is_pointwise, is_work, sums_over_rows
from domino_compile.scheduling.traffic import MOST_OPERATIONS, bytes_of
from domino_compile.scheduling.units import Unit

aten = torch.ops.aten

#: Who makes a buffer, and which of the values that it makes is in it.
Buffer = tuple[fx.Node, int]
#: Operations that write into a copy of their first input.
SCATTERS = {
    aten.index_put.default,
    aten._unsafe_index_put.default,
    aten._unsafe_masked_index_put_accumulate.default,
    aten.scatter_add.default,
}
#: A pointwise value with several users is computed anew in each kernel that uses it, unless it is
#: made of more values (Inductor's ``realize_reads_threshold``) or by more operations.
MOST_READS = 4
#: Collectives whose result is in the buffer that they are given.
IN_PLACE = ("all_reduce", "broadcast", "all_reduce_coalesced")


@dataclass(frozen=True)
class Result:
    """A tensor that a graph returns.

    Attributes:
        bytes: its own size.
        buffer: the number of the buffer that it is in; ``None`` if the caller holds that anyway.
        buffer_bytes: the size of the buffer, of which it may be a view.
    """

    bytes: int
    buffer: int | None
    buffer_bytes: int


@dataclass(frozen=True)
class StepMemory:
    """The memory of a step while one of its graphs runs.

    Attributes:
        peak_bytes: the most that is allocated at once.
        results: what the graph returns, in order.
    """

    peak_bytes: int
    results: tuple[Result, ...] = ()


def held_bytes(graph: fx.Graph) -> int:
    """The bytes of parameters and inputs of a joint, forward or inference graph."""
    return sum(bytes_of(n) for n in _tensor_inputs(graph) if not _is_tangent(n))


def step_memory(
    graph: fx.Graph, units: Sequence[Unit], held: int, forward: Sequence[Result] = ()
) -> StepMemory:
    """The memory of a step while a graph runs.

    Args:
        graph: a forward, backward or inference graph.
        units: its units, in the order in which they run.
        held: bytes of parameters and inputs of the whole step.
        forward: of a backward graph, what its forward returns, as far as that is known.
    """
    inputs = _tensor_inputs(graph)
    owned: list[fx.Node] = []
    if any(_is_tangent(n) for n in inputs):
        owned = [n for n in inputs if not str(n.target).startswith("primals")]
    walk = _Walk(graph, units)
    walk.take_inputs(inputs, owned)
    others = walk.take_results([n for n in inputs if not _is_tangent(n)], owned, forward)
    return StepMemory(walk.peak(held + others), walk.results())


def _tensor_inputs(graph: fx.Graph) -> list[fx.Node]:
    return [n for n in graph.find_nodes(op="placeholder") if bytes_of(n)]


def _is_tangent(node: fx.Node) -> bool:
    return str(node.target).startswith("tangents")


class _Walk:
    """A graph's buffers, and the places of the units that make and read each."""

    def __init__(self, graph: fx.Graph, units: Sequence[Unit]) -> None:
        self.units = units
        self.output = graph.output_node()
        self.place = {node: i for i, unit in enumerate(units) for node in unit.nodes}
        self.buffers: dict[fx.Node, tuple[Buffer, ...]] = {}
        self.size: dict[Buffer, int] = {}
        self.inside: dict[Buffer, Buffer] = {}
        self.stored: set[Buffer] = set()
        self.readers: dict[Buffer, set[float]] = defaultdict(set)

    # -- which buffers there are -----------------------------------------------------------

    def take_inputs(self, inputs: Sequence[fx.Node], owned: Sequence[fx.Node]) -> None:
        """Note the inputs, and those that the graph may free; the others count nothing here."""
        for node in inputs:
            self.buffers[node] = ((node, 0),)
            self.size[node, 0] = 0
        for node in owned:
            self.size[node, 0] = bytes_of(node)

    def take_results(
        self, inputs: Sequence[fx.Node], owned: Sequence[fx.Node], forward: Sequence[Result]
    ) -> int:
        """Put inputs that forward returned from one buffer into one.

        Forward's last results are backward's inputs.

        Returns:
            The bytes of forward's other results, which the caller has.
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
        """The buffers that a node's value is in."""
        found = self.buffers.get(node)
        if found is None:
            found = self.buffers[node] = self._made_or_shared(node)
        return found

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
        found = self.of(source)
        if getattr(node.target, "__name__", "") == "getitem":
            return tuple(b for b in found if b[0] is not source or b[1] == node.args[1])
        return found

    # -- who uses them ---------------------------------------------------------------------

    def _read(self) -> None:
        """Note who reads each buffer; let all-reduces work in the buffers that they are given."""
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
        """Let groups compute anew what is not stored: its readers read what it is made of."""
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
        """Whether fused groups alone read a buffer."""
        return all(
            math.isfinite(place) and is_fusible(self.units[int(place)].nodes[0])
            for place in self.readers[buffer]
        )

    def _in_two_kernels(self, node: fx.Node) -> bool:
        """Whether a value goes into a sum over rows and into something else of its group.

        A gradient of a norm's weight is such a sum: its kernel is not the one of the rows.
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
        """Put a node's results into the buffers that it is given, where nothing else needs them."""
        for buffer, result in zip(self._given(node), self.of(node), strict=False):
            if buffer != result and self.size[buffer] and max(self.readers[buffer]) <= here:
                self.readers[buffer] |= self.readers.pop(result, set())
                self.size[result] = 0
                self.inside[result] = buffer

    def peak(self, held: int) -> int:
        """The most that is allocated at once, in bytes, with what the caller holds."""
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
        """The bytes of results that a fused group writes over what it reads for the last time."""
        room = Counter(self.size[b] for b in freed if b not in made)
        fitting = room & Counter(self.size[b] for b in made if b not in freed)
        return sum(size * count for size, count in fitting.items())

    def results(self) -> tuple[Result, ...]:
        """What the graph returns, by the buffers that it is in."""
        numbers: dict[Buffer, int] = {}
        found = []
        arguments: Any = self.output.args[0]
        members = arguments if isinstance(arguments, (list, tuple)) else (arguments,)
        for node in members:
            if not isinstance(node, fx.Node) or not bytes_of(node):
                continue
            buffers = [b for x in self.of(node) if self.size[b := self.inside.get(x, x)]]
            number = numbers.setdefault(buffers[0], len(numbers)) if buffers else None
            size = self.size[buffers[0]] if buffers else 0
            found.append(Result(bytes_of(node), number, size))
        return tuple(found)


def _wrapped(node: fx.Node) -> fx.Node | None:
    """What the partitioner wrapped, if a node is that or a member of its results."""
    while node.op == "call_function" and "val" in node.meta and _is_member(node):
        node = node.all_input_nodes[0]
    while node.op == "call_function" and "val" not in node.meta:
        if not _is_member(node):
            return node if isinstance(node.target, HigherOrderOperator) else None
        node = node.all_input_nodes[0]
    return None


def _tensors_in(node: fx.Node) -> list[tuple[fx.Node, ...]]:
    """The tensors among the results of what was wrapped, each behind the members that it is in."""
    found: list[tuple[fx.Node, ...]] = []
    for user in filter(_is_member, node.users):
        inner = _tensors_in(user)
        found += [(user, *rest) for rest in inner] if inner else [(user,)]
    return [path for path in found if bytes_of(path[-1])]


def _is_member(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", "") == "getitem" and len(node.all_input_nodes) == 1


def _writes_in_place(node: fx.Node) -> bool:
    """Whether a node's value is its first input, written to."""
    schema = getattr(node.target, "_schema", None)
    alias = schema.returns[0].alias_info if schema is not None and schema.returns else None
    return alias is not None and bool(alias.is_write)
