"""What one compile asks the other ranks, stage by stage, and tells them where it has failed.

``agreement`` has the questions and how they are answered. Without a check nothing is asked, and
this rank does as it wants.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import fx

from domino_compile.agreement.check import RankCheck
from domino_compile.agreement.votes import (
    Vote,
    groups_in_order,
    order_vote,
    plan_vote,
    proved_vote,
    transport_vote,
)
from domino_compile.graph.collectives import as_launch, is_launch
from domino_compile.graph.tags import is_alone
from domino_compile.passes.schedule import ScheduleResult
from domino_compile.report import CompileReport
from domino_compile.report.faults import Failure


@dataclass(frozen=True)
class Consensus:
    """The questions of one compile.

    Attributes:
        check: The agreement with the other ranks; ``None``: they are not asked.
        report: The report of the compile, with the collectives of the captured graph.
        proves: Whether ranks have graphs of their own, so that one alone may fail to prove it.
    """

    check: RankCheck | None
    report: CompileReport
    proves: bool

    def on_plan(self, plan: list[str]) -> None:
        """Agree on a plan; an empty one leaves Inductor alone.

        Raises:
            RanksDiffer: The other ranks have another plan.
            RankMismatchError: The other ranks cannot run this program.
        """
        if self.check is not None:
            self.check.plan(self.report, plan)

    def on_order(self, phase: str, result: ScheduleResult) -> bool:
        """Return whether all ranks have this order; if not, all keep the original order."""
        if self.check is None:
            return True
        wanted, original = (
            [result.units.units[index].nodes[0] for index in schedule.order]
            for schedule in (result.after, result.before)
        )
        return not self.check.agree(self._order(phase, wanted, original))

    def on_transport(self, phase: str, graph: fx.Graph, ways: Mapping[fx.Node, str]) -> bool:
        """Return whether all ranks carry the same collectives in the same way."""
        if self.check is None:
            return True
        return not self.check.agree(self._transport(phase, graph, ways))

    def on_proof(self, phase: str) -> str:
        """Return why not all ranks have proved their graphs; empty if they have."""
        if self.check is None or not self.proves:
            return ""
        return self.check.agree(proved_vote(phase, self._groups, ""))

    def failed(self, failure: Failure) -> None:
        """Tell the others what this rank has failed to make, so that they need not wait for it."""
        if self.check is None:
            return
        phase, graph = failure.phase, failure.graph
        if phase == "joint":
            self.check.tell(plan_vote(self.report, [], self.check.terms))
            return
        self.check.tell(self._order(phase, graph.nodes, graph.nodes))
        if self.proves:
            self.check.tell(self._transport(phase, graph, {}))
            self.check.tell(proved_vote(phase, self._groups, str(failure.error)))

    def _order(self, phase: str, wanted: Iterable[fx.Node], original: Iterable[fx.Node]) -> Vote:
        ours, theirs = (
            [as_launch(n) for n in order if is_launch(n) and not is_alone(n)]
            for order in (wanted, original)
        )
        return order_vote(phase, ours, theirs, self._groups)

    def _transport(self, phase: str, graph: fx.Graph, ways: Mapping[fx.Node, str]) -> Vote:
        launches = [n for n in graph.nodes if is_launch(n) and not is_alone(n)]
        pairs = [(as_launch(n), ways.get(n, "")) for n in launches]
        return transport_vote(phase, pairs, self._groups)

    @property
    def _groups(self) -> list[str]:
        return groups_in_order(self.report)
