"""The decision about a joint graph: a value made once (``decide``) and read by later steps."""

from __future__ import annotations

from dataclasses import dataclass

from domino_compile.analysis import CutPlan, NoCut
from domino_compile.analysis.found import Found
from domino_compile.analysis.reasons import Way
from domino_compile.planner import Choice, Prediction


@dataclass(frozen=True)
class Possible:
    """The collectives that could be cut, by name, even if they are not; used for advice.

    Attributes:
        rows: Those that can be cut by rows of the batch.
        columns: Those that can be cut by columns of the products in front of them.
    """

    rows: frozenset[str] = frozenset()
    columns: frozenset[str] = frozenset()

    def ways(self, name: str | None = None) -> list[Way]:
        """Return the ways to cut a collective, or any collective if no name is given."""
        by_way = ((Way.ROWS, self.rows), (Way.COLUMNS, self.columns))
        return [way for way, names in by_way if (names if name is None else name in names)]


@dataclass(frozen=True)
class Decision:
    """How a graph is treated, and why nothing more is done.

    Attributes:
        reorder: Whether to merge collectives and reorder everything. If not, the graph is left to
            Inductor alone.
        rows: How rows are cut, or why they are not.
        parts: The number of column parts; 1 if columns are not cut.
        at: The collectives in front of which columns are cut, by name; empty for all.
        choice: The comparison of candidates; ``None`` if the options leave no choice.
        predictions: The predictions that were compared.
        possible: The cuts that are possible, if fewer are made.
    """

    reorder: bool
    rows: CutPlan | NoCut
    parts: int = 1
    at: frozenset[str] = frozenset()
    choice: Choice | None = None
    predictions: tuple[Prediction, ...] = ()
    possible: Possible = Possible()

    def described(self, collectives: Found, merged: int) -> list[str]:
        """Return what other ranks must do too; empty if the graph is left to Inductor.

        Args:
            collectives: The collectives that are cut or put in order.
            merged: The number of collectives that were merged.
        """
        if not self.reorder:
            return []
        rows = self.rows.chunks.sizes if isinstance(self.rows, CutPlan) else ()
        at = [n for n, site in enumerate(collectives.sites) if site.launch.name in self.at]
        columns = f"in {self.parts} parts at {at or 'all'}" if self.parts > 1 else "uncut"
        cuts = [f"rows {'+'.join(map(str, rows)) or 'uncut'}", f"columns {columns}"]
        return [*cuts, f"{merged} collectives merged"]

    @property
    def cuts_rows(self) -> bool:
        """Return whether rows are cut."""
        return isinstance(self.rows, CutPlan)

    @property
    def cut_plan(self) -> CutPlan:
        """Return how rows are cut."""
        assert isinstance(self.rows, CutPlan)
        return self.rows
