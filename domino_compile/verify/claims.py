"""The witness of a rewriting: which values after it stand for which values before it.

Passes leave claims; the checker (``verify.check``) establishes them, or refuses the graph. Claims
are plain data and nothing is taken on trust: a wrong claim can only make the checker refuse.

Nodes are named. A value before that has no claim, and whose name is gone, is not needed by any
other claim, or is computed anew from values that have claims.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Whole:
    """A value after equals a value before.

    Attributes:
        node: The value after.
        summed_over: A process group: only the sums over its ranks are equal. Empty: the values are.
    """

    node: str
    summed_over: str = ""

    def __str__(self) -> str:
        return f"the sum over group {self.summed_over}" if self.summed_over else "the whole"


@dataclass(frozen=True)
class Piece:
    """A value after is a part of a value before, along one dimension.

    The dimension is read as ``outer`` blocks of equal extent. The piece has the rows
    ``start .. start + length`` of each block, block after block.

    Attributes:
        node: The value after.
        dim: The dimension.
        outer: The number of blocks.
        start: The first row, within a block.
        length: The number of rows, within a block.
        dealt_over: A process group: its ranks' values are the blocks, each rank holds the piece's
            rows of one block after, and one part of the whole dimension before. Empty: one value.
        ranks: The size of that group, or 1.
    """

    node: str
    dim: int
    outer: int
    start: int
    length: int
    dealt_over: str = ""
    ranks: int = 1

    def __str__(self) -> str:
        blocks = f" of {self.outer} blocks" if self.outer > 1 else ""
        dealt = f", dealt over group {self.dealt_over}" if self.dealt_over else ""
        end = self.start + self.length
        return f"rows {self.start}..{end}{blocks} of dimension {self.dim}{dealt}"


Claim: TypeAlias = Whole | Piece


@dataclass
class Witness:
    """The claims that a pass leaves.

    Attributes:
        claims: For each value before, by name, the values after that stand for it. A value that
            keeps its name is claimed to be whole without saying so.
    """

    claims: dict[str, list[Claim]] = field(default_factory=dict)

    def add(self, before: str, claim: Claim) -> None:
        """Claim something about a value before."""
        known = self.claims.setdefault(before, [])
        if claim not in known:
            known.append(claim)

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """Return the claims as plain data."""
        return {name: [asdict(c) for c in claims] for name, claims in self.claims.items()}

    @staticmethod
    def from_json(data: Mapping[str, Iterable[Mapping[str, Any]]]) -> Witness:
        """Return the witness that ``to_json`` described."""
        return Witness(
            {
                name: [Piece(**claim) if "dim" in claim else Whole(**claim) for claim in claims]
                for name, claims in data.items()
            }
        )
