"""What may be done with a graph: leave it, reorder it, or cut it along rows, columns or both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

#: Slices that are tried; more have never paid: every slice is another launch on the wire.
MOST_SLICES = 4
#: Parts of the columns that are tried.
COLUMNS = (2, 4)
#: Parts of the columns beside a cut of the rows.
HYBRID_COLUMNS = (2,)
#: Which part of the rows an uneven cut moves from the second slice to the first.
UNEVEN = 8


@dataclass(frozen=True)
class Candidate:
    """One way to treat a graph.

    Attributes:
        rows: rows of each slice; empty where rows are not cut.
        columns: parts of the columns; 1 where they are not cut.
        at: the collectives in front of which columns are cut, by name; empty for all.
        reorder: whether collectives are merged and everything is put in a new order; else
            Inductor is left alone.
    """

    rows: tuple[int, ...] = ()
    columns: int = 1
    at: frozenset[str] = frozenset()
    reorder: bool = True

    @property
    def cut(self) -> bool:
        """Whether anything is cut."""
        return bool(self.rows) or self.columns > 1

    @property
    def split(self) -> str:
        """What is cut: ``rows``, ``columns``, ``rows and columns``; ``reordered``, ``inductor``."""
        if not self.cut:
            return "reordered" if self.reorder else "inductor"
        return " and ".join(["rows"] * bool(self.rows) + ["columns"] * (self.columns > 1))

    def __str__(self) -> str:
        if not self.cut:
            return "uncut, reordered" if self.reorder else "uncut"
        rows = [f"rows {'+'.join(map(str, self.rows))}"] if self.rows else []
        columns = [f"columns in {self.columns}"] if self.columns > 1 else []
        many = "s" * (len(self.at) != 1)
        where = f" at {len(self.at)} collective{many}" if self.at else ""
        return " and ".join(rows + columns) + where


INDUCTOR = Candidate(reorder=False)
REORDERED = Candidate()


def row_candidates(rows: int, most: int, uneven: bool, columns: int = 1) -> Iterator[Candidate]:
    """Cuts of the rows, fewest slices first.

    Args:
        rows: how many there are.
        most: how many slices they are enough for.
        uneven: whether slices of different sizes can be made.
        columns: parts of the columns that go with each of them.
    """
    for parts in range(2, min(most, MOST_SLICES) + 1):
        low, more = divmod(rows, parts)
        even = tuple(low + (i < more) for i in range(parts))
        yield Candidate(even, columns)
        moved = max(1, rows // UNEVEN)
        if uneven and parts == 2 and even[1] > moved:
            yield Candidate((even[0] + moved, even[1] - moved), columns)


def column_candidates(at: frozenset[str]) -> Iterator[Candidate]:
    """Cuts of the columns alone, in front of some collectives."""
    for parts in COLUMNS:
        yield Candidate((), parts, at)


def hybrids(best: Candidate, at: frozenset[str]) -> Iterator[Candidate]:
    """The best cut of the rows, with columns cut as well, in front of some collectives."""
    for parts in HYBRID_COLUMNS:
        yield Candidate(best.rows, parts, at)
