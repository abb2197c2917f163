"""Which slices of a unit of work need which slices of another.

The same slice, in the main. All of them where the value in between is joined; the earlier ones as
well of the keys of causal attention (``Prefix``); the later ones as well of their gradients
(``PrefixSum``).
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import fx

from domino_compile.analysis import Analysis
from domino_compile.analysis.propagate import tensor_operands
from domino_compile.axes import Prefix, PrefixSum
from domino_compile.planner.unfold import Unfolded
from domino_compile.scheduling import Unit

#: A unit, and one that needs it.
Pair: TypeAlias = tuple[int, int]
#: A value of the graph that is cut, and a user of it.
Pairing: TypeAlias = tuple[fx.Node, fx.Node]
#: Whether a slice of a unit is needed by a slice of another, by their numbers.
Meeting: TypeAlias = Callable[[int, int], bool]


@dataclass
class Needs:
    """The dependencies between slices of a graph's units.

    Args:
        units: The units of the graph, uncut.
        axes: What is cut along each axis.
        program: The graph that the units are of.

    Attributes:
        of: The unit of each node that is work.
        joined: For each axis the pairs of units between which a value is joined.
        back: The pairs of which the second looks back on earlier slices of the first.
        ahead: The pairs of which the second needs later slices of the first.
    """

    units: Sequence[Unit]
    axes: Sequence[Analysis]
    program: Unfolded
    of: dict[fx.Node, int] = field(init=False)
    joined: list[set[Pair]] = field(init=False)
    back: list[set[Pair]] = field(init=False)
    ahead: list[set[Pair]] = field(init=False)

    def __post_init__(self) -> None:
        self.of = {node: unit.index for unit in self.units for node in unit.nodes}
        self.joined = [self._pairs(axis.joins) for axis in self.axes]
        self.back = [self._pairs(_looking_back(axis)) for axis in self.axes]
        self.ahead = [self._pairs(_looking_ahead(axis)) for axis in self.axes]

    def meets(self, pair: Pair, have: Sequence[bool], want: Sequence[bool]) -> list[Meeting]:
        """Return for each axis which slices of a unit another needs.

        Args:
            pair: The unit that is needed, and the one that needs it.
            have: Along which axes the first is cut.
            want: Along which axes the second is cut.
        """
        return [
            self._meeting(pair, axis) if cut and also else _every
            for axis, (cut, also) in enumerate(zip(have, want, strict=True))
        ]

    def _meeting(self, pair: Pair, axis: int) -> Meeting:
        if pair in self.joined[axis]:
            return _every
        if pair in self.back[axis]:
            return operator.le
        return operator.ge if pair in self.ahead[axis] else operator.eq

    def edges(self, values: Iterable[Pairing]) -> Iterator[Pairing]:
        """Yield where a value is used by its user, with what backward recomputes of either."""
        for value, user in values:
            yield from self.program.edges(value, user)

    def _pairs(self, values: Iterable[Pairing]) -> set[Pair]:
        """Return the units that make a value and take it, for pairs of a value and its user."""
        pairs = set[Pair]()
        for value, user in self.edges(values):
            makers = units_at(value, self.of, lambda n: n.all_input_nodes)
            takers = units_at(user, self.of, lambda n: list(n.users))
            pairs.update(itertools.product(makers, takers))
        return pairs


def looks_back(axis: Analysis, node: fx.Node) -> bool:
    """Return whether slices of an operation along an axis need earlier slices of an operand."""
    cut = axis.cuts.get(node)
    return cut is not None and any(isinstance(state, Prefix) for state in cut.inputs)


def _looking_back(axis: Analysis) -> Iterable[Pairing]:
    for node, cut in axis.cuts.items():
        if looks_back(axis, node):
            states = zip(tensor_operands(node), cut.inputs, strict=True)
            yield from ((x, node) for x, state in states if isinstance(state, Prefix))


def _looking_ahead(axis: Analysis) -> Iterable[Pairing]:
    for node, cut in axis.cuts.items():
        if isinstance(cut.out, PrefixSum):
            yield from ((node, user) for user in node.users)


def _every(needed: int, by: int) -> bool:
    """Return ``True``: every slice is needed."""
    del needed, by
    return True


def units_at(
    node: fx.Node, of: Mapping[fx.Node, int], step: Callable[[fx.Node], list[fx.Node]]
) -> set[int]:
    """Return the units at a node, or the next ones past what is no work."""
    waiting, seen, units = [node], set[fx.Node](), set[int]()
    while waiting:
        node = waiting.pop()
        if node in of:
            units.add(of[node])
        elif node not in seen and node.op == "call_function":
            seen.add(node)
            waiting.extend(step(node))
    return units
