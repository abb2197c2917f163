"""One operation's rule, and its traits for the rest of the package."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any

from domino_compile.axes import Sliced
from domino_compile.rules.call import Call, Outcome

#: A rule maps a call with at least one cut operand to a ``Cut`` or a ``Refusal``.
RuleFn = Callable[[Call], Outcome]
#: A pull maps a call with no cut operand, and the wanted state of its result, to a ``Cut`` or a
#: ``Refusal``. A value that is needed in slices is then *made* in slices, and not made whole first.
PullFn = Callable[[Call, Sliced], Outcome]


class Trait(Flag):
    """How an operation treats its operands' elements, regardless of the axis that is cut."""

    NONE = 0
    #: Computes each element of the result from single elements of the operands.
    POINTWISE = auto()
    #: Rearranges the same elements in another shape or order of dimensions.
    RESHAPES = auto()
    #: Sends elements between ranks, or waits for such a transfer.
    COMMUNICATES = auto()
    #: Makes values without tensor inputs, such as constants, ranges and random numbers.
    CREATES = auto()
    #: Combines elements along dimensions that the result lacks or has with extent 1.
    REDUCES = auto()
    #: Puts pieces together, or into a larger value, without computing anything.
    PUTS_TOGETHER = auto()


@dataclass(frozen=True)
class Rule:
    """The rule of one operation.

    Attributes:
        op: The operation.
        family: The name of its family, for error messages.
        forward: The function that cuts it, given cut operands.
        pull: The function that makes its result in slices; ``None`` if that is impossible.
        columns: For a matrix product, the function that makes columns of the result from columns of
            the right operand; ``None`` if that is impossible.
        multiple: For a matrix product, the number that must divide the columns of a part.
        traits: How the operation treats its operands' elements.
    """

    op: Any
    family: str
    forward: RuleFn
    pull: PullFn | None = None
    traits: Trait = Trait.NONE
    columns: PullFn | None = None
    multiple: int = 1


def family(
    name: str,
    forward: RuleFn,
    ops: Iterable[Any],
    pull: PullFn | None = None,
    traits: Trait = Trait.NONE,
    columns: PullFn | None = None,
    multiple: int = 1,
) -> dict[Any, Rule]:
    """Return a table with the same rule for each operation of a family.

    Operations are given as overload packets (``torch.ops.aten.add``, all overloads), single
    overloads, or plain functions.
    """
    return {op: Rule(op, name, forward, pull, traits, columns, multiple) for op in ops}
