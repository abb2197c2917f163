"""One thing to prove: a few operations before, a few after, and how their operands correspond.

A ``Part`` is a piece of both graphs between values that are known to correspond. Equal layers make
equal parts, so a part is identified by ``key``, in which values are numbered instead of named.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from domino_compile.verify.claims import Claim
from domino_compile.verify.plain import Graph, Operation, Ref, Tensor, is_launch, replaced


class NotEstablished(Exception):
    """A graph is not shown to be equal.

    Attributes:
        node: the value, before or after, for which that is so.
        reason: why.
    """

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(f"{node}: {reason}")
        self.node, self.reason = node, reason


@dataclass(frozen=True)
class Given:
    """An operand whose relation is known.

    Attributes:
        before: the value before, by name.
        claim: what the value after is of it.
    """

    before: str
    claim: Claim


@dataclass(frozen=True)
class Part:
    """What is to be proved.

    Attributes:
        goal: what is claimed of the value after; its node is the last of ``after``.
        about: the value before that the claim is about.
        before: the operations before that compute it, in order; empty if it is an operand itself.
        after: the operations after, in order.
        inputs: the operands before, by name.
        given: the operands after, by name.
        graphs: both whole graphs, for the graphs that operations call.
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
        """What tells this part from others, but for names."""
        numbers = {name: i for i, name in enumerate((*self.inputs, *self.before))}
        inputs = tuple(_signature(op.value) for op in self.inputs.values())
        before = tuple(_operation(op, numbers) for op in self.before.values())
        places = {name: -1 - i for i, name in enumerate((*self.given, *self.after))}
        given = tuple((numbers[x.before], _anonymous(x.claim)) for x in self.given.values())
        after = tuple(_operation(op, places) for op in self.after.values())
        goal = (numbers[self.about], _anonymous(self.goal))
        return (inputs, before, given, after, goal)

    @cached_property
    def launches(self) -> tuple[list[Operation], list[Operation]] | None:
        """Return the collectives before and after; ``None`` if there are none."""
        before, after = (
            [op for op in side.values() if is_launch(op)] for side in (self.before, self.after)
        )
        return (before, after) if before or after else None

    @property
    def ranks(self) -> int:
        """How many ranks the collectives in it have; 1 if there are none."""
        sizes = [getattr(claim, "ranks", 1) for claim in self._claims()]
        return max([1, *sizes, *(_group_size(op) for op in self._operations())])

    def _claims(self) -> list[Claim]:
        return [self.goal, *(given.claim for given in self.given.values())]

    def _operations(self) -> list[Operation]:
        return [*self.before.values(), *self.after.values()]


#: How many ranks a collective is taken to have if its arguments do not say so.
RANKS = 3


def _group_size(op: Operation) -> int:
    """How many ranks a collective has; 1 for other operations."""
    kind = op.target.removeprefix("_c10d_functional.").split(".")[0]
    if kind == op.target.split(".")[0]:
        return 1
    if kind.startswith("all_gather_into_tensor"):
        return int(op.args[1])
    if kind.startswith("reduce_scatter_tensor"):
        return int(op.args[2])
    if kind == "all_to_all_single":
        return len(op.args[2])
    return 1 if kind.startswith("wait") else RANKS


def _anonymous(claim: Claim) -> tuple[Any, ...]:
    return tuple(value for key, value in vars(claim).items() if key != "node")


def _operation(op: Operation, numbers: dict[str, int]) -> tuple[Any, ...]:
    def by(ref: Ref) -> Any:
        return ("#", numbers.get(ref.name, ref.name))

    return (op.target, _typed(replaced((op.args, op.kwargs), by)), _signature(op.value))


def _typed(argument: Any) -> Any:
    """Return an argument so that ``1``, ``1.0`` and ``True`` differ."""
    if type(argument) is tuple:
        return tuple(map(_typed, argument))
    return (type(argument).__name__, argument) if isinstance(argument, (bool, float)) else argument


def _signature(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value[:2]
    return tuple(map(_signature, value)) if isinstance(value, tuple) else value
