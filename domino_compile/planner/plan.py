"""Plan a graph: predict candidates, the most promising first, and choose.

The time of every candidate is estimated by sums over its units. Scheduling the units takes longer,
so candidates are scheduled in the order of their estimates, and only while an estimate is better
than the best time so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from domino_compile.analysis import CutPlan, NoCut, most_slices, rows_of
from domino_compile.axes import Chunks
from domino_compile.cost import CostModel
from domino_compile.planner.candidates import (
    COLUMNS,
    REORDERED,
    Candidate,
    column_candidates,
    hybrids,
    row_candidates,
    token_candidates,
)
from domino_compile.planner.choose import Choice, Policy, Prediction, choose
from domino_compile.planner.predict import MOST_IMPROVED, Expansion, Pieces
from domino_compile.planner.unfold import Unfolded
from domino_compile.scheduling import UnitGraph

#: The largest number of candidates of each kind of cut that are scheduled.
MOST_ORDERED = 2
#: Column cuts are considered if the best row cut leaves more than this fraction of the step
#: exposed. They hide less (only a product's collective under its next part), and each part is
#: another collective.
EXPOSED = 0.03
#: The fraction by which the best order may be faster than the estimate.
SLACK = 0.1
#: The fraction by which improving its order may make a candidate faster.
IMPROVABLE = 0.08


@dataclass
class Planner:
    """The planning of one graph.

    Args:
        program: The joint or inference graph, collectives merged.
        cost: The model that predicts times.
        alone: The prediction for the captured graph, compiled by Inductor without us.
        rows: How rows can be cut, or why not.
        columns: Analyses on demand how columns can be cut in front of the named collectives
            (empty: all of them).
        policy: The limits for margin and memory.
        parts: The number of column parts that the user asks for; ``None`` to choose. It is ignored
            if columns cannot be cut.
        units: The units of the graph, if already built.
    """

    program: Unfolded
    cost: CostModel
    alone: Prediction
    rows: CutPlan | NoCut
    columns: Callable[[frozenset[str]], CutPlan | NoCut]
    policy: Policy
    parts: int | None = None
    units: UnitGraph | None = None
    predictions: list[Prediction] = field(init=False)
    #: The candidates whose orders can be improved, as they were predicted.
    _drafts: dict[Candidate, tuple[Expansion, list[UnitGraph]]] = field(
        init=False, default_factory=dict
    )

    def run(self) -> Choice:
        """Predict and choose; ``predictions`` holds all candidates that were compared."""
        self.predictions = [self.alone]
        if self.parts is not None and self.parts > 1:
            plan = self.columns(frozenset())
            if isinstance(plan, CutPlan):
                # The user asks for columns, so their cost does not matter.
                self.policy = replace(self.policy, margin=-math.inf)
                self._forced_columns(plan, self.parts)
                return choose(self.predictions, replace(self.policy, memory_cap=math.inf))
        reordered = Expansion(self.program, self.cost, units=self.units)
        whole = reordered.pieces(())
        uncut = self._predict(REORDERED, reordered, reordered.expanded(whole))
        self.predictions.append(uncut)
        self._rows()
        if self.parts is None:
            estimate_us = reordered.estimate_us(whole, COLUMNS[0], uncut.waited)
            if self._columns_may_pay(estimate_us):
                self._columns(uncut)
        self._improve()
        return choose(self.predictions, self.policy)

    def _improve(self) -> None:
        """Predict those candidates again, in the best orders, that may be the fastest then."""
        limit = self._best_us / (1 - IMPROVABLE)
        for place, found in enumerate(self.predictions):
            if found.candidate in self._drafts and found.us <= limit and self._fits(found):
                self.predictions[place] = self._predict(
                    found.candidate, *self._drafts[found.candidate], improve=True
                )

    def _predict(
        self,
        candidate: Candidate,
        expansion: Expansion,
        phases: list[UnitGraph],
        improve: bool = False,
    ) -> Prediction:
        """Predict a candidate; a cut has to keep to the allowed memory if it can."""
        if any(len(graph.units) <= MOST_IMPROVED for graph in phases):
            self._drafts[candidate] = expansion, phases
        most = self.policy.allowed_bytes(self.alone) if candidate.cut else math.inf
        return expansion.predict(candidate, phases, self.policy, most, improve)

    def _columns_may_pay(self, estimate_us: float) -> bool:
        best = self._best_rows()
        if best is None and self.policy.always:
            return True
        exposed = best is None or best.exposed_us > EXPOSED * best.us
        return exposed and estimate_us * (1 - SLACK) < self._best_us

    @property
    def _best_us(self) -> float:
        """Return the best predicted time so far."""
        return min(p.us for p in self.predictions if not p.estimated and self._fits(p))

    def _fits(self, prediction: Prediction) -> bool:
        """Return whether a prediction is within the allowed memory."""
        return prediction.peak_bytes <= self.policy.allowed_bytes(self.alone)

    def _rows(self) -> None:
        if isinstance(self.rows, CutPlan):
            expansion = Expansion(self.program, self.cost, [self.rows.analysis])
            self._try((c, expansion, [_shares(c.rows)]) for c in self._row_candidates(1))

    def _best_rows(self) -> Prediction | None:
        cuts = [p for p in self.predictions if p.candidate.rows and not p.estimated]
        return min(filter(self._fits, cuts), key=lambda p: p.us, default=None)

    def _columns(self, uncut: Prediction) -> None:
        """Try column cuts where compute waits; in front of hidden collectives they cost time."""
        if (cut := self._columns_at(uncut)) is not None:
            plan, at = cut
            expansion = Expansion(self.program, self.cost, [plan.analysis])
            self._try((c, expansion, [_even(c.columns)]) for c in column_candidates(at))
        best = self._best_rows()
        if best is None or not isinstance(self.rows, CutPlan):
            return
        if (cut := self._columns_at(best)) is not None:
            plan, at = cut
            both = Expansion(self.program, self.cost, [self.rows.analysis, plan.analysis])
            mixed = hybrids(best.candidate, at)
            self._try((c, both, [_shares(c.rows), _even(c.columns)]) for c in mixed)

    def _columns_at(self, prediction: Prediction) -> tuple[CutPlan, frozenset[str]] | None:
        """Return how to cut columns in front of a candidate's exposed collectives, or ``None``.

        Also returns the names of the exposed collectives that the cut reaches: some have no product
        in front of them, or are data parallel.
        """
        plan = self.columns(prediction.waited) if prediction.waited else None
        if not isinstance(plan, CutPlan):
            return None
        cut = {launch.name for launch in plan.analysis.sliced_collectives()}
        return plan, prediction.waited & cut

    def _forced_columns(self, plan: CutPlan, parts: int) -> None:
        expansion = Expansion(self.program, self.cost, [plan.analysis])
        self._try([(Candidate(columns=parts), expansion, [_even(parts)])])
        if isinstance(self.rows, CutPlan):
            both = Expansion(self.program, self.cost, [self.rows.analysis, plan.analysis])
            candidates = self._row_candidates(parts)
            self._try((c, both, [_shares(c.rows), _even(parts)]) for c in candidates)

    def _row_candidates(self, columns: int) -> Iterator[Candidate]:
        assert isinstance(self.rows, CutPlan)
        analysis = self.rows.analysis
        uneven = not self.rows.chunks.dynamic
        cuts = token_candidates if analysis.looks_back else row_candidates
        return cuts(rows_of(analysis), most_slices(analysis), uneven, columns)

    def _try(
        self, candidates: Iterable[tuple[Candidate, Expansion, Sequence[Sequence[float]]]]
    ) -> None:
        estimates: list[tuple[float, int, Candidate, Expansion, Pieces]] = []
        for place, (candidate, expansion, shares) in enumerate(candidates):
            made = expansion.pieces(shares)
            estimates.append((expansion.estimate_us(made), place, candidate, expansion, made))
        best_us, predictions = self._best_us, dict[int, Prediction]()
        for rank, (estimate, place, candidate, expansion, made) in enumerate(sorted(estimates)):
            promising = estimate * (1 - SLACK) < best_us or (rank == 0 and self.policy.always)
            if rank < MOST_ORDERED and promising:
                phases = expansion.expanded(made)
                predictions[place] = self._predict(candidate, expansion, phases)
                best_us = min(best_us, predictions[place].us)
            else:
                predictions[place] = Prediction(candidate, estimate, 0, estimated=True)
        self.predictions += [predictions[place] for place in sorted(predictions)]


def rows_cut(plan: CutPlan, candidate: Candidate) -> CutPlan:
    """Return the plan with the candidate's slices."""
    if plan.chunks.dynamic:
        chunks = Chunks.even(plan.chunks.total, len(candidate.rows))
    else:
        chunks = Chunks(plan.chunks.total, candidate.rows)
    return replace(plan, chunks=chunks)


def _shares(rows: Sequence[int]) -> list[float]:
    total = sum(rows)
    return [part / total for part in rows]


def _even(parts: int) -> list[float]:
    return [1 / parts] * parts
