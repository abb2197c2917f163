"""The ways to treat a graph: leave it, reorder it, or cut it along rows, columns or both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

#: Numbers of slices to try; more have never paid, as every slice is another launch on the wire.
MOST_SLICES = 4
#: Numbers of column parts to try.
COLUMNS = (2, 4)
#: Numbers of column parts to try together with a cut of the rows.
HYBRID_COLUMNS = (2,)
#: An uneven cut moves one row in this many from the second slice to the first.
UNEVEN = 8


@dataclass(frozen=True)
class Candidate:
    """One way to treat a graph.

    Attributes:
        rows: rows of each slice; empty if rows are not cut.
        columns: number of column parts; 1 if columns are not cut.
        at: the names of the collectives in front of which columns are cut; empty for all.
        reorder: whether collectives are merged and everything is reordered; otherwise the graph is
            left to Inductor.
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
    """Yield cuts of the rows, fewest slices first.

    Args:
        rows: the number of rows.
        most: the largest possible number of slices.
        uneven: whether slices may differ in size.
        columns: number of column parts in each candidate.
    """
    for parts in range(2, min(most, MOST_SLICES) + 1):
        low, more = divmod(rows, parts)
        even = tuple(low + (i < more) for i in range(parts))
        yield Candidate(even, columns)
        moved = max(1, rows // UNEVEN)
        if uneven and parts == 2 and even[1] > moved:
            yield Candidate((even[0] + moved, even[1] - moved), columns)


def column_candidates(at: frozenset[str]) -> Iterator[Candidate]:
    """Yield cuts of the columns only, in front of the collectives ``at``."""
    for parts in COLUMNS:
        yield Candidate((), parts, at)


def hybrids(best: Candidate, at: frozenset[str]) -> Iterator[Candidate]:
    """Yield the best cut of the rows with columns cut as well, in front of collectives ``at``."""
    for parts in HYBRID_COLUMNS:
        yield Candidate(best.rows, parts, at)
