"""One thing to prove: a few operations before, a few after, and how their operands correspond.

A ``Part`` is a piece of both graphs between values that are known to correspond. Equal layers make
equal parts, so a part is identified by ``key``, in which values are numbered instead of named.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from domino_compile.verify.claims import Claim, Piece, Whole
from domino_compile.verify.plain import (
    ARRANGE,
    COUNTS,
    EXCHANGE,
    OWN_PART,
    Graph,
    Operation,
    Ref,
    is_launch,
    ranks_of,
)
from domino_compile.verify.transported import STARTS, command_of


class NotEstablished(Exception):
    """A graph is not shown to be equal.

    Attributes:
        node: The value, before or after, for which that is so.
        reason: Why that is so.
    """

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(f"{node}: {reason}")
        self.node, self.reason = node, reason


@dataclass(frozen=True)
class Given:
    """An operand whose relation is known.

    Attributes:
        before: The value before, by name.
        claim: How the value after relates to it.
    """

    before: str
    claim: Claim


@dataclass(frozen=True)
class Part:
    """What is to be proved.

    Attributes:
        goal: What is claimed of the value after; its node is the last of ``after``.
        about: The value before that the claim is about.
        before: The operations before that compute it, in order; empty if it is an operand itself.
        after: The operations after, in order.
        inputs: The operands before, by name.
        given: The operands after, by name.
        graphs: Both whole graphs, for the graphs that operations call.
    """

    goal: Claim
    about: str
    before: dict[str, Operation]
    after: dict[str, Operation]
    inputs: dict[str, Operation]
    given: dict[str, Given]
    graphs: tuple[Graph, Graph]

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Return what tells this part from others, but for names."""
        numbers = {name: i for i, name in enumerate((*self.inputs, *self.before))}
        old, new = self.graphs
        inputs = tuple(
            _operation(op, {}, old) if op.target in COUNTS else op.value
            for op in self.inputs.values()
        )
        before = tuple(_operation(op, numbers, old) for op in self.before.values())
        places = {name: -1 - i for i, name in enumerate((*self.given, *self.after))}
        given = tuple((numbers[x.before], _anonymous(x.claim)) for x in self.given.values())
        after = tuple(_operation(op, places, new) for op in self.after.values())
        goal = (numbers[self.about], _anonymous(self.goal))
        return (inputs, before, given, after, goal)

    @cached_property
    def launches(self) -> tuple[list[Operation], list[Operation]] | None:
        """Return the collectives before and after; ``None`` if there are none."""
        before, after = (
            [op for op in side.values() if is_launch(op)] for side in (self.before, self.after)
        )
        return (before, after) if before or after else None

    @cached_property
    def dealt(self) -> bool:
        """Return whether elements move between ranks: a rank after has others than before."""
        return any(isinstance(claim, Piece) and claim.dealt_over for claim in self._claims())

    @property
    def equal_on_ranks(self) -> list[str]:
        """Return the operands before that must be equal on all ranks.

        These are whole values beside dealt ones, and those that each rank takes its own part of.
        """
        shared = {x for op in self.after.values() if op.target == OWN_PART for x in op.operands}
        equal = [
            given.before
            for name, given in self.given.items()
            if isinstance(given.claim, Whole) or name in shared
        ]
        return equal if self.dealt else []

    @cached_property
    def groups(self) -> frozenset[str]:
        """Return the process groups of its collectives."""
        launches = self.launches or ([], [])
        return frozenset(_group(op) for side in launches for op in side)

    @cached_property
    def own_ranks(self) -> set[int]:
        """Return the ranks that its starts of the transport are for: one, if there are any.

        What a graph makes of an inbox is right on its own rank only. The other ranks prove theirs.
        """
        starts = (op for op in self._operations() if command_of(op.target) in STARTS)
        return {ranks_of(op)[0] for op in starts}

    @cached_property
    def ranks(self) -> int:
        """Return how many ranks the collectives in it have; 1 if there are none.

        The result of an all-reduce is the same function of its payloads for any number of ranks.
        """
        sizes = {getattr(claim, "ranks", 1) for claim in self._claims()}
        sizes |= {_group_size(op) for op in self._operations()}
        known = sizes - {1}
        return max(known) if known else RANKS if self.groups else 1

    def _claims(self) -> list[Claim]:
        return [self.goal, *(given.claim for given in self.given.values())]

    def _operations(self) -> list[Operation]:
        return [*self.before.values(), *self.after.values()]


#: How many ranks a collective is taken to have if its arguments do not say so.
RANKS = 3


def _group(launch: Operation) -> str:
    """Return the group of a collective: the last of its arguments that is a name."""
    return next((x for x in reversed(launch.args) if isinstance(x, str)), "")


def _group_size(op: Operation) -> int:
    """Return how many ranks a collective has, if its arguments say so; otherwise 1."""
    if command_of(op.target) in STARTS:
        return ranks_of(op)[1]
    if op.target in (EXCHANGE, ARRANGE):
        return int(op.args[3])
    kind = op.target.removeprefix("_c10d_functional.").split(".")[0]
    if kind.startswith("all_gather_into_tensor"):
        return int(op.args[1])
    if kind.startswith("reduce_scatter_tensor"):
        return int(op.args[2])
    return len(op.args[2]) if kind == "all_to_all_single" else 1


def _anonymous(claim: Claim) -> tuple[Any, ...]:
    return tuple(value for key, value in vars(claim).items() if key != "node")


def _operation(op: Operation, numbers: dict[str, int], graph: Graph) -> tuple[Any, ...]:
    if (inner := graph.inner.get(op.name)) is not None:
        names = {name: i for i, name in enumerate(inner.operations)}
        called = tuple(_operation(x, names, inner) for x in inner.operations.values())
        return (called, tuple(names.get(str(name), name) for name in inner.outputs))
    return (op.target, _numbered((op.args, op.kwargs), numbers), op.value)


def _numbered(argument: Any, numbers: dict[str, int]) -> Any:
    """Return an argument with numbers for names, so that ``1``, ``1.0`` and ``True`` differ."""
    kind = type(argument)
    if kind is tuple:
        # Most items are integers: no call for those.
        return tuple(
            [_numbered(item, numbers) if type(item) in _CHANGED else item for item in argument]
        )
    if kind is Ref:
        return ("#", numbers.get(argument.name, argument.name))
    return (kind.__name__, argument) if kind in _CHANGED else argument


_CHANGED = frozenset((tuple, Ref, bool, float))
