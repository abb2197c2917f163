"""One operation's rule, and what the rest of the package may ask of the operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any

from domino_compile.axes import Sliced
from domino_compile.rules.call import Call, Outcome

#: A rule maps a call with at least one cut operand to what can be done.
RuleFn = Callable[[Call], Outcome]
#: A pull maps a call with no cut operand and the wanted state of its result to what can be done:
#: it lets a value that is wanted in slices be *made* in slices instead of made whole and cut.
PullFn = Callable[[Call, Sliced], Outcome]


class Trait(Flag):
    """What an operation does to its operands' elements, whatever axis is cut."""

    NONE = 0
    #: Computes each element of the result from single elements of the operands.
    POINTWISE = auto()
    #: Gives the same elements another shape or order of dimensions.
    RESHAPES = auto()
    #: Sends elements between ranks, or waits for that.
    COMMUNICATES = auto()
    #: Makes values from nothing, such as constants, ranges and random numbers.
    CREATES = auto()
    #: Combines elements along dimensions that the result does not have, or only with extent 1.
    REDUCES = auto()
    #: Puts pieces together or into a larger value, and computes nothing.
    PUTS_TOGETHER = auto()


@dataclass(frozen=True)
class Rule:
    """The rule of one operation.

    Attributes:
        op: the operation.
        family: the name of its family, for error messages.
        forward: says how the operation acts on cut operands.
        pull: says how its result can be made in slices, if it can.
        traits: what the operation does.
    """

    op: Any
    family: str
    forward: RuleFn
    pull: PullFn | None = None
    traits: Trait = Trait.NONE


def family(
    name: str,
    forward: RuleFn,
    ops: Iterable[Any],
    pull: PullFn | None = None,
    traits: Trait = Trait.NONE,
) -> dict[Any, Rule]:
    """The same rule for a family of operations.

    Operations are given as overload packets (``torch.ops.aten.add``, all overloads), single
    overloads, or plain functions.
    """
    return {op: Rule(op, name, forward, pull, traits) for op in ops}
