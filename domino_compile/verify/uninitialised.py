"""Memory that nothing has written (``aten.empty``): its numbers may be any.

A program that reads such numbers may compute any of many results. A rewritten program is right if
whatever it computes is one of these. So the numbers that it finds may be taken for those that the
program before might have found, as long as each number before is taken from one place only: two
values after that stand for the same number before need not be equal.

What is not taken so is drawn at random, anew in both forms and several times. A result that depends
on it differs.
"""

from __future__ import annotations

import torch

from domino_compile.verify.claims import Claim, Piece, Whole

OPERATIONS = frozenset(
    {
        "aten.empty.memory_format",
        "aten.empty_like.default",
        "aten.empty_permuted.default",
        "aten.empty_strided.default",
        "aten.new_empty.default",
        "aten.new_empty_strided.default",
    }
)


class Unwritten:
    """The values before whose numbers are not written, and what is taken for which part of them."""

    def __init__(self) -> None:
        self._taken: dict[str, list[Claim]] = {}

    def take(self, name: str, claim: Claim) -> bool:
        """Take memory after for the numbers of a value before, or for a part of them.

        Returns:
            Whether nothing else has been taken for these numbers.
        """
        taken = self._taken.setdefault(name, [])
        if taken and not all(_apart(claim, other) for other in taken):
            return False
        if isinstance(claim, Whole) and claim.summed_over:
            return False
        taken.append(claim)
        return True


def _apart(one: Claim, other: Claim) -> bool:
    """Return whether two claims are about different rows."""
    if not isinstance(one, Piece) or not isinstance(other, Piece):
        return False
    blocks = [(piece.dim, piece.outer, piece.dealt_over, piece.ranks) for piece in (one, other)]
    first, last = sorted((one, other), key=lambda piece: piece.start)
    return blocks[0] == blocks[1] and first.start + first.length <= last.start


def anything(value: torch.Tensor) -> torch.Tensor:
    """Return random numbers instead of a value's."""
    if value.is_floating_point() or value.is_complex():
        return torch.randn_like(value)
    return torch.randint(0, 2, value.shape).to(value.dtype)
