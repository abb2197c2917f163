"""All ranks run the same collectives in the same order, or all go on with Inductor alone.

The plan is a function of the graph, the options and the cost tables, so ranks agree by
construction. Should one of those differ all the same (another version or option, a graph that
breaks on one rank only, a shape that is a rank's own), ranks that run different programs would hang
in a collective. So they agree while they compile, before anything of the program runs:

1. *On the plan*, in the joint graph, after everything is decided: the plan, or Inductor alone.
   Inductor alone launches what the user's program launches, in its order, and is right wherever the
   program would be right without this package.
2. *On the order* of each lowered graph's collectives, when it is compiled (backward often at its
   first run): the scheduled order, or the order found. Ranks whose shapes differ a little (a
   vocabulary that does not divide) may schedule differently.

**What is asked.** Questions are named by their content (``ballot``), never by a count. For each
process group that is the list of the graph's tensor-parallel collectives, with the bytes of the
group's own, and the options. What a rank has of its own is left out: the bytes of other groups and
of an ``all_to_all_single`` (expert parallelism), and all collectives that are not tensor parallel.
Hence a rank that compiles again alone (its last batch is smaller, it has a padded length of its
own, a guard failed) asks what was answered before and waits for nobody; ranks that compile again
together meet.

**Who waits.** Only ranks that would change the collectives. A rank that leaves a graph to Inductor
says so and goes on at once. Graphs without a tensor-parallel collective ask nothing: other
collectives are never cut, merged or put in another order (``graph.tags.mark_alone``), so that ranks
with different programs still meet in them.

**Ranks that have parted.** A rank records which program it is at, and at which it has been. A
waiting rank that finds another one at a program at which it has never been itself knows that they
would wait for each other for ever: it settles both questions with Inductor alone. If their
collectives differ (a graph break on one rank), later programs of the group would not match either:
the group is marked as *parted*, and its later programs go on with Inductor alone without waiting.
What all have agreed on before stays as it is. If only options, rates or versions differ, the ranks
are still at the same program, and later ones are asked for anew.

**Several groups** (a mesh): each is asked. Then the outcome goes round, group after group in the
order of the graph, so that it is the same for all ranks of the mesh.

**Errors.** A rank that others do not join within ``check_timeout_s`` settles that there is no
answer, and raises; so does whoever comes later. The group is marked as parted, so that the next
program does not wait. A compiled program of a cache has one order only; where the others cannot
have it, it is compiled anew.

What cannot be seen is a rank that runs an *older* program instead, which asks nothing: the waiting
rank raises after ``check_timeout_s``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist

from domino_compile.agreement.ballot import Answer, Ballot, Offer, Table
from domino_compile.agreement.votes import (
    ALONE,
    PLAN,
    Matter,
    Terms,
    Vote,
    difference,
    plan_vote,
)
from domino_compile.errors import RankMismatchError
from domino_compile.report import CompileReport

log = logging.getLogger(__name__)

#: The outcome that goes round the groups of a mesh.
BEST, FALLBACK = "best", "fallback"
#: Keys of a group's store: why its ranks have parted; where each rank is.
PARTED, AT = "parted", "at"


class RanksDiffer(Exception):
    """The ranks do not have the same plan; all compile this program with Inductor alone."""


@dataclass
class RankCheck:
    """The agreements of one compile.

    Attributes:
        terms: of the compile.
        timeout_s: how long to wait for other ranks.
        broken: the user's line at which the captured graph broke, if it did.
        cast: what was agreed on so far; kept with a cached plan, to be asked again from there.
    """

    terms: Terms
    timeout_s: float
    broken: str = ""
    cast: list[Vote] = field(default_factory=list)

    def plan(self, report: CompileReport, plan: Sequence[str]) -> None:
        """Agree on a plan, or tell that there is none (``plan_vote``).

        Raises:
            RanksDiffer: the ranks leave the graph to Inductor alone instead.
            RankMismatchError: they cannot run it together.
        """
        vote = plan_vote(report, plan, self.terms)
        if not plan:
            self.tell(vote)
        elif why := self.agree(vote):
            raise RanksDiffer(why)

    def agree(self, vote: Vote) -> str:
        """Ask and wait; returns why all ranks take the fallback, or nothing if they have the best.

        Raises:
            RankMismatchError: there is no answer for all; running would hang.
        """
        why = self._agreed(vote)
        self.cast.append(vote.taken(not why))
        return why

    def tell(self, vote: Vote) -> None:
        """Say what this rank does, without waiting: it can do nothing else.

        Raises:
            RankMismatchError: the other ranks have agreed on something else.
        """
        self.cast.append(vote)
        tables = _tables(vote)
        for matter, table in tables:
            self._come(matter, table, vote.stage)
            ballot = Ballot(table, matter.question)
            ballot.post(Offer(matter.accepts, matter.says))
            answer = ballot.answer()
            if answer is not None and answer.value not in matter.accepts:
                raise RankMismatchError(_no_way(matter, table, answer))
            if len(tables) > 1:
                _round(matter, table).post(Offer((FALLBACK,), {}))

    def repeat(self, votes: Sequence[Vote]) -> bool:
        """Ask what was asked when a program that comes from a cache was compiled.

        Returns:
            Whether the other ranks have the order of its collectives.

        Raises:
            RanksDiffer: they have another plan.
            RankMismatchError: as ``agree``.
        """
        known = {vote.key for vote in self.cast}
        for vote in (vote for vote in votes if vote.key not in known):
            if vote.stage == PLAN:
                self._repeat_plan(vote)
                continue
            try:
                self.agree(vote)
            except RankMismatchError:
                return False
        return True

    def _repeat_plan(self, vote: Vote) -> None:
        if any(matter.best == ALONE for matter in vote.matters):
            self.tell(vote)
        elif why := self.agree(vote.or_alone()):
            raise RanksDiffer(why)

    def _agreed(self, vote: Vote) -> str:
        tables, why = _tables(vote), ""
        for matter, table in tables:
            self._come(matter, table, vote.stage)
            if vote.stage != PLAN or table.read(PARTED) is None:
                Ballot(table, matter.question).post(Offer(matter.accepts, matter.says))
        for matter, table in tables:
            answer = self._ask(matter, table, vote.stage)
            if answer.value != matter.best:
                why = why or answer.why or f"another rank of group {table.group} differs"
        if len(tables) > 1:
            why = self._round_all(tables, why)
        if why:
            log.warning("%s", why)
        return why

    def _come(self, matter: Matter, table: Table, stage: str) -> None:
        """Record at which program this rank is, and that it has been there."""
        if stage == PLAN:
            here = json.dumps(
                {
                    "question": matter.question,
                    "content": matter.content,
                    "broken": self.broken,
                    "says": dict(matter.says),
                }
            )
            table.write(f"{AT}/{table.own}", here)
            table.write(f"{matter.content}/{AT}/{table.own}", here)

    def _ask(self, matter: Matter, table: Table, stage: str) -> Answer:
        ballot = Ballot(table, matter.question)
        parted = table.read(PARTED) if stage == PLAN else None
        if parted is not None and ballot.answer() is None:
            ballot.settle(Answer(ALONE, parted))

        def elsewhere(missing: Sequence[int]) -> Answer | None:
            return self._parted(matter, table, missing) if stage == PLAN else None

        answer = ballot.ask(
            Offer(matter.accepts, matter.says), _explained(table), elsewhere, self.timeout_s
        )
        if answer.value not in matter.accepts:
            if answer.value is None:
                table.write_once(PARTED, f"{answer.why}: Inductor compiles what follows alone")
            raise RankMismatchError(_no_way(matter, table, answer))
        return answer

    def _parted(self, matter: Matter, table: Table, missing: Sequence[int]) -> Answer | None:
        """The answer, if a rank that is missing is at a program at which this rank never was."""
        for position in missing:
            alike = table.read(f"{matter.content}/{AT}/{position}")
            if alike is not None and _is_news(other := json.loads(alike), matter, table):
                found = difference(matter.says, other["says"])
                why = _differ(table, table.ranks[table.own], table.ranks[position], found)
                Ballot(table, other["question"]).settle(Answer(ALONE, why))
                return Answer(ALONE, why)
            text = table.read(f"{AT}/{position}")
            if text is not None and _is_news(other := json.loads(text), matter, table):
                if table.read(f"{other['content']}/{AT}/{table.own}") is not None:
                    continue  # it is behind, with other options, and will find that out
                why = self._told_apart(matter, table, position, other)
                table.write_once(PARTED, why)
                Ballot(table, other["question"]).settle(Answer(ALONE, why))
                return Answer(ALONE, why)
        return None

    def _told_apart(
        self, matter: Matter, table: Table, position: int, other: Mapping[str, Any]
    ) -> str:
        here, there = table.ranks[table.own], table.ranks[position]
        lines = {here: self.broken, there: str(other["broken"])}
        broken = [f"that of rank {rank} broke at {line}" for rank, line in lines.items() if line]
        cause = "; ".join(broken) or difference(matter.says, other["says"])
        return (
            f"ranks {here} and {there} of group {table.group} run different graphs ({cause}); this"
            " and what the group compiles from now on is left to Inductor alone"
        )

    def _round_all(self, tables: Sequence[tuple[Matter, Table]], why: str) -> str:
        """Tell the outcome to all groups of a mesh, one after the other."""
        if why:  # who waits in another group learns it at once
            for matter, table in tables:
                _round(matter, table).post(Offer((FALLBACK,), {"why": why}))
            return why
        for matter, table in tables:
            offer = Offer((FALLBACK,) if why else (BEST, FALLBACK), {"why": why})
            ballot = _round(matter, table)
            answer = ballot.ask(offer, _passed_on, lambda _: None, self.timeout_s)
            if answer.value not in (BEST, FALLBACK):
                raise RankMismatchError(_no_way(matter, table, answer))
            if answer.value == FALLBACK:
                why = answer.why or "ranks of another group differ"
        return why


def _tables(vote: Vote) -> list[tuple[Matter, Table]]:
    """The groups in which there is somebody to ask."""
    if not (dist.is_available() and dist.is_initialized()):
        return []
    tables = ((matter, Table.of(matter.group)) for matter in vote.matters)
    return [(matter, table) for matter, table in tables if table is not None]


def _is_news(other: Mapping[str, Any], matter: Matter, table: Table) -> bool:
    """Whether an other rank is at a question that nobody has settled and this rank never asked."""
    ballot = Ballot(table, other["question"])
    known = other["question"] == matter.question or ballot.has_offer_of(table.own)
    return not known and ballot.answer() is None


def _round(matter: Matter, table: Table) -> Ballot:
    return Ballot(table, f"{matter.question}/round")


def _passed_on(offers: Mapping[int, Offer]) -> str:
    said = (str(offer.says.get("why", "")) for offer in offers.values())
    return next(filter(None, said), "ranks of another group differ")


def _explained(table: Table) -> Callable[[Mapping[int, Offer]], str]:
    """Says what the offers of two ranks differ in."""

    def explain(offers: Mapping[int, Offer]) -> str:
        mine = offers[table.own]
        for position, other in offers.items():
            if other.accepts[0] != mine.accepts[0]:
                found = difference(mine.says, other.says) or "one of them leaves it to Inductor"
                return _differ(table, table.ranks[table.own], table.ranks[position], found)
        return f"other ranks of group {table.group} differ"

    return explain


def _differ(table: Table, here: int, there: int, found: str) -> str:
    return (
        f"ranks {here} and {there} of group {table.group} planned different collectives: {found}"
        f" (here is rank {here}); check that all ranks run the same model, options and version"
    )


def _no_way(matter: Matter, table: Table, answer: Answer) -> str:
    if answer.value is None:
        return answer.why
    return (
        f"the ranks of group {table.group} have agreed on another plan or order than rank"
        f" {table.ranks[table.own]} has: {matter.says.get('summary', matter.says.get('order', ''))}"
    )
