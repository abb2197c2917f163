"""The ways to treat a graph: leave it, reorder it, or cut it along rows, columns or both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

#: Numbers of slices to try; more have never paid, as every slice is another launch on the wire.
MOST_SLICES = 4
#: Numbers of column parts to try.
COLUMNS = (2, 4)
#: Numbers of column parts to try together with a cut of the rows.
HYBRID_COLUMNS = (2,)
#: An uneven cut moves one row in this many from the second slice to the first.
UNEVEN = 8
#: Slices of tokens are multiples of this where there are enough of them: what the tiles of matrix
#: products and attention are made for (``cost.model.BLOCK_ROWS``).
TOKEN_STEP = 128


@dataclass(frozen=True)
class Candidate:
    """One way to treat a graph.

    Attributes:
        rows: The rows of each slice, or tokens; empty where neither is cut.
        tokens: Whether tokens of a sequence are cut, not rows of a batch.
        columns: Parts of the columns; 1 where they are not cut.
        at: The collectives in front of which columns are cut, by name; empty for all.
        reorder: Whether collectives are merged and everything is put in a new order; else
            Inductor is left alone.
    """

    rows: tuple[int, ...] = ()
    columns: int = 1
    at: frozenset[str] = frozenset()
    reorder: bool = True
    tokens: bool = False

    @property
    def cut(self) -> bool:
        """Return whether anything is cut."""
        return bool(self.rows) or self.columns > 1

    @property
    def split(self) -> str:
        """Return what is cut: ``rows``, ``tokens``, ``columns``, ``rows and columns``, ...

        Or ``reordered``, ``inductor``.
        """
        if not self.cut:
            return "reordered" if self.reorder else "inductor"
        return " and ".join([self._rows] * bool(self.rows) + ["columns"] * (self.columns > 1))

    @property
    def _rows(self) -> str:
        return "tokens" if self.tokens else "rows"

    def __str__(self) -> str:
        if not self.cut:
            return "reordered, not cut" if self.reorder else "Inductor alone"
        rows = [f"{self._rows} {'+'.join(map(str, self.rows))}"] if self.rows else []
        columns = [f"columns in {self.columns}"] if self.columns > 1 else []
        many = "s" * (len(self.at) != 1)
        where = f" at {len(self.at)} collective{many}" if self.at else ""
        return " and ".join(rows + columns) + where


INDUCTOR = Candidate(reorder=False)
REORDERED = Candidate()


def row_candidates(rows: int, most: int, uneven: bool, columns: int = 1) -> Iterator[Candidate]:
    """Yield cuts of the rows, fewest slices first.

    Args:
        rows: The number of rows.
        most: The largest possible number of slices.
        uneven: Whether slices may differ in size.
        columns: The number of column parts in each candidate.
    """
    for parts in range(2, min(most, MOST_SLICES) + 1):
        low, more = divmod(rows, parts)
        even = tuple(low + (i < more) for i in range(parts))
        yield Candidate(even, columns)
        moved = max(1, rows // UNEVEN)
        if uneven and parts == 2 and even[1] > moved:
            yield Candidate((even[0] + moved, even[1] - moved), columns)


def token_candidates(tokens: int, most: int, uneven: bool, columns: int = 1) -> Iterator[Candidate]:
    """Yield cuts of the tokens of causal attention, whose later slices have more work.

    Args:
        tokens: The number of tokens.
        most: The number of slices that they are enough for.
        uneven: Whether slices of different sizes can be made.
        columns: Parts of the columns that go with each of them.
    """
    for candidate in row_candidates(tokens, most, uneven, columns):
        rows = _stepped(candidate.rows) if uneven else candidate.rows
        yield replace(candidate, rows=rows, tokens=True)


def _stepped(rows: tuple[int, ...]) -> tuple[int, ...]:
    """Return slices of nearly the same sizes, multiples of ``TOKEN_STEP`` if longer than it."""
    if min(rows) < TOKEN_STEP:
        return rows
    ends = [round(end / TOKEN_STEP) * TOKEN_STEP for end in accumulate(rows[:-1])]
    return tuple(b - a for a, b in pairwise((0, *ends, sum(rows))))


def column_candidates(at: frozenset[str]) -> Iterator[Candidate]:
    """Yield cuts of the columns only, in front of the collectives ``at``."""
    for parts in COLUMNS:
        yield Candidate((), parts, at)


def hybrids(best: Candidate, at: frozenset[str]) -> Iterator[Candidate]:
    """Yield the best cut of the rows with columns cut as well, in front of collectives ``at``."""
    for parts in HYBRID_COLUMNS:
        yield replace(best, columns=parts, at=at)
