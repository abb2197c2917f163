"""The decision about a joint graph: a value made once (``decide``) and read by later steps."""

from __future__ import annotations

from dataclasses import dataclass

from domino_compile.analysis import CutPlan, NoCut
from domino_compile.analysis.found import Found
from domino_compile.analysis.reasons import Reason, Way
from domino_compile.planner import Choice, Prediction


@dataclass(frozen=True)
class Possible:
    """Which collectives could be cut, by name, whatever is done; for advice.

    Attributes:
        rows: by cutting rows of the batch.
        columns: by cutting columns of the products in front of them.
    """

    rows: frozenset[str] = frozenset()
    columns: frozenset[str] = frozenset()

    def ways(self, name: str | None = None) -> list[Way]:
        """How a collective can be cut; without a name: how any can."""
        found = ((Way.ROWS, self.rows), (Way.COLUMNS, self.columns))
        return [way for way, names in found if (names if name is None else name in names)]


@dataclass(frozen=True)
class Decision:
    """How a graph is treated, and why nothing more is done.

    Attributes:
        reorder: whether collectives are merged and everything is put in a new order. Otherwise
            Inductor is left alone.
        rows: how rows are cut, or why not.
        parts: into how many parts columns are cut; 1 for not at all.
        at: the collectives in front of which columns are cut, by name; empty for all.
        reason: why nothing is cut, if that is so.
        choice: the comparison of candidates; ``None`` where the options leave no choice.
        predictions: what was compared.
        possible: what could be done, where less is done.
    """

    reorder: bool
    rows: CutPlan | NoCut
    parts: int = 1
    at: frozenset[str] = frozenset()
    reason: Reason | None = None
    choice: Choice | None = None
    predictions: tuple[Prediction, ...] = ()
    possible: Possible = Possible()

    def described(self, found: Found, merged: int) -> list[str]:
        """Return what other ranks must do too; empty if the graph is left to Inductor.

        Args:
            found: the collectives that are cut or put in order.
            merged: how many were merged.
        """
        if not self.reorder:
            return []
        rows = self.rows.chunks.sizes if isinstance(self.rows, CutPlan) else ()
        at = [n for n, site in enumerate(found.sites) if site.launch.name in self.at]
        columns = f"in {self.parts} parts at {at or 'all'}" if self.parts > 1 else "uncut"
        cuts = [f"rows {'+'.join(map(str, rows)) or 'uncut'}", f"columns {columns}"]
        return [*cuts, f"{merged} collectives merged"]

    @property
    def cuts_rows(self) -> bool:
        """Whether rows are cut."""
        return isinstance(self.rows, CutPlan)

    @property
    def cut_plan(self) -> CutPlan:
        """Return how rows are cut."""
        assert isinstance(self.rows, CutPlan)
        return self.rows
