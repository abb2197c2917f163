"""Makes all ranks run the same collectives in the same order, or use Inductor alone on all.

The plan is a function of the graph, the options and the cost tables, so ranks agree by
construction. But one of these may differ (another version or option, a graph that breaks on one
rank only, a shape that differs by rank), and ranks that run different programs would hang in a
collective. So the ranks agree while they compile, before any part of the program runs:

1. *On the plan*, in the joint graph, after everything is decided: the plan, or Inductor alone.
   Inductor alone launches the same collectives as the user's program, in its order, and is right if
   the program is right without this package.
2. *On the order* of each lowered graph's collectives, when it is compiled (backward often at its
   first run): the scheduled order, or the original order. Ranks with slightly different shapes (a
   vocabulary that does not divide evenly) may schedule differently.

**The questions.** Questions are named by their content (``ballot``). For each process group the
content is the list of the graph's tensor-parallel collectives, with the bytes of those in this
group. It leaves out everything that may differ by rank: the bytes of other groups and of an
``all_to_all_single`` (expert parallelism), and all collectives that are not tensor parallel. It
includes the terms of the compile (options, rates, versions) and how many other plans this rank has
wanted for this content before: two graphs may have the same collectives. So a rank that recompiles
alone (its last batch is smaller, its padded length differs, a guard failed) asks a question that is
already answered and does not wait. Ranks that recompile together, or on new terms, meet.

3. *On the transport*, if the option ``transport`` is set: copy engines for the same collectives
   with the same buffers, or NCCL for all. The ranks' GPUs and launchers may differ.

**Who waits.** Only ranks wait that would change the collectives, or that plan the same content in a
new way (others may still have another program). A rank that leaves a graph to Inductor says so and
continues at once. Graphs without a tensor-parallel collective ask nothing: other collectives are
never cut, merged or reordered (``graph.tags.mark_alone``), so ranks with different programs still
meet in them.

**Ranks that have parted.** A rank records its current program and its earlier programs. If a
waiting rank finds another rank at a program that it has never reached itself, or at the same
program on other terms, they would wait for each other forever. It then settles both questions with
Inductor alone. If their collectives differ (a graph break on one rank), later programs of the group
would not match either: the group is marked as *parted*, and its later programs use Inductor alone
without waiting. Earlier agreements still hold. If only options, rates or versions differ, the ranks
are still at the same program: it is left to Inductor alone whenever it is planned on these terms,
and other programs are asked about again.

**Several groups.** In a mesh each group is asked. Then the outcome is passed from group to group in
the order of the graph, so that it is the same for all ranks of the mesh.

**Errors.** If others do not join within ``check_timeout_s``, a rank settles that there is no answer
and raises; so do ranks that come later. The group is marked as parted, so that the next program
does not wait. A compiled program from a cache has a fixed order; if the others cannot use it, the
program is compiled again.

A rank that runs an *older* program instead asks nothing and cannot be detected: the waiting rank
raises after ``check_timeout_s``.
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

#: The outcome that is passed between the groups of a mesh.
BEST, FALLBACK = "best", "fallback"
#: Keys of a group's store: why its ranks have parted; where each rank is.
PARTED, AT = "parted", "at"


class RanksDiffer(Exception):
    """The ranks have different plans, so all compile this program with Inductor alone."""


@dataclass
class RankCheck:
    """The agreements of one compile.

    Attributes:
        terms: The terms of the compile.
        timeout_s: How long to wait for other ranks.
        broken: The user's line at which the captured graph broke, if it did.
        cast: The agreements so far. They are kept with a cached plan and asked again from there.
        names: The name of the question that asked for the plan, by group.
        variants: How many other plans were wanted for this content before, by group.
    """

    terms: Terms
    timeout_s: float
    broken: str = ""
    cast: list[Vote] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    variants: dict[str, int] = field(default_factory=dict)

    def plan(self, report: CompileReport, plan: Sequence[str]) -> None:
        """Agree on a plan, or announce that there is none (``plan_vote``).

        Raises:
            RanksDiffer: The ranks leave the graph to Inductor alone instead.
            RankMismatchError: The ranks cannot run it together.
        """
        vote = plan_vote(report, plan, self.terms)
        if why := self.agree(vote):
            raise RanksDiffer(why)

    def agree(self, vote: Vote) -> str:
        """Ask and wait; return why all ranks use the fallback, or nothing if they have the best.

        Raises:
            RankMismatchError: The ranks have no common answer; running would hang.
        """
        why = self._agreed(vote)
        self.cast.append(vote.taken(not why))
        return why

    def tell(self, vote: Vote) -> None:
        """Announce what this rank does if it has no choice, without waiting.

        Raises:
            RankMismatchError: The other ranks have agreed on something else.
        """
        self.cast.append(vote)
        tables = _tables(vote)
        for matter, table in tables:
            ballot = Ballot(table, self._come(matter, table, vote.stage))
            ballot.post(Offer(matter.accepts, matter.says))
            answer = ballot.answer()
            if answer is not None and answer.value not in matter.accepts:
                raise RankMismatchError(_no_way(matter, table, answer))
            if len(tables) > 1:
                self._round(matter, table, vote.stage).post(Offer((FALLBACK,), {}))

    def repeat(self, votes: Sequence[Vote]) -> bool:
        """Ask what was asked when a program that comes from a cache was compiled.

        Returns:
            Whether the other ranks have the order of its collectives.

        Raises:
            RanksDiffer: The other ranks have another plan.
            RankMismatchError: As for ``agree``.
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
        if why := self.agree(vote.or_alone()):
            raise RanksDiffer(why)

    def _agreed(self, vote: Vote) -> str:
        tables, why, plan = _tables(vote), "", vote.stage == PLAN
        for matter, table in tables:
            name = self._come(matter, table, vote.stage)
            if not plan or table.read(PARTED) is None:
                Ballot(table, name).post(Offer(matter.accepts, matter.says))
        if plan and _nothing_to_change(vote) and _is_first(vote, self.variants):
            self._tell_others(tables)
            return ""
        for matter, table in tables:
            answer = self._ask(matter, table, vote.stage)
            if answer.value != matter.best:
                why = why or answer.why or f"another rank of group {table.group} differs"
        if len(tables) > 1:
            why = self._round_all(tables, why, vote.stage)
        if why:
            log.warning("%s", why)
        return why

    def _tell_others(self, tables: Sequence[tuple[Matter, Table]]) -> None:
        """Announce Inductor alone without waiting, because others may wait for this rank."""
        for matter, table in tables:
            answer = Ballot(table, self.names[matter.group]).answer() or _given_up(matter, table)
            if answer is not None and answer.value not in matter.accepts:
                raise RankMismatchError(_no_way(matter, table, answer))
            if len(tables) > 1:
                self._round(matter, table, PLAN).post(Offer((FALLBACK,), {}))

    def _come(self, matter: Matter, table: Table, stage: str) -> str:
        """Record this rank's current program, and return the name of its question."""
        if stage != PLAN:
            base = f"{self.names.get(matter.group, '')}/{matter.question}"
            name, self.variants[base] = _named(base, matter.question, matter.best, table)
            return name
        name, variant = _named(matter.content, matter.question, matter.best, table)
        self.names[matter.group], self.variants[matter.group] = name, variant
        here = {
            "name": name,
            "variant": variant,
            "content": matter.content,
            "broken": self.broken,
            "says": dict(matter.says),
        }
        table.write(f"{matter.content}/{AT}/{table.own}", json.dumps(here))
        table.write(f"{AT}/{table.own}", json.dumps(here))
        return name

    def _ask(self, matter: Matter, table: Table, stage: str) -> Answer:
        plan = stage == PLAN
        name = self.names[matter.group] if plan else self._come(matter, table, stage)
        base = matter.group if plan else f"{self.names.get(matter.group, '')}/{matter.question}"
        ballot = Ballot(table, name)
        if plan and (left := _left(matter, table)) is not None and ballot.answer() is None:
            ballot.settle(_given_up(matter, table) or left)

        def elsewhere(missing: Sequence[int]) -> Answer | None:
            return self._parted(matter, table, missing) if plan else None

        answer = ballot.ask(
            Offer(matter.accepts, matter.says),
            _explained(table),
            elsewhere,
            self.timeout_s,
            meet=self.variants[base] > 0,
        )
        if answer.value not in matter.accepts:
            if answer.value is None:
                table.write_once(PARTED, f"{answer.why}: Inductor compiles what follows alone")
            raise RankMismatchError(_no_way(matter, table, answer))
        if plan and answer.value != matter.best:
            table.write_once(f"{matter.question}/{PARTED}", answer.why)
        return answer

    def _parted(self, matter: Matter, table: Table, missing: Sequence[int]) -> Answer | None:
        """Return an answer if missing ranks will not come because they are at another program."""
        if (left := _left(matter, table)) is not None:
            return left
        name, variant = self.names[matter.group], self.variants[matter.group]
        for position in missing:
            there = table.ranks[position]
            alike = _record(table, f"{matter.content}/{AT}/{position}")
            if alike is not None and alike["variant"] >= variant and alike["name"] != name:
                detail = difference(matter.says, alike["says"])
                why = _differ(table, table.ranks[table.own], there, detail)
                held = Ballot(table, alike["name"]).settle(Answer(ALONE, why))
                return held if held.value is None else Answer(ALONE, why)  # or it has given up
            other = _record(table, f"{AT}/{position}")
            if other is None or table.read(f"{other['content']}/{AT}/{table.own}") is not None:
                continue  # this rank has been there: the other one may still be on its way
            theirs = Ballot(table, other["name"])
            if theirs.answer() is None:
                why = self._told_apart(matter, table, position, other)
                table.write_once(PARTED, why)
                theirs.settle(Answer(ALONE, why))
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
            " graph and all later ones of the group are left to Inductor alone"
        )

    def _round_all(self, tables: Sequence[tuple[Matter, Table]], why: str, stage: str) -> str:
        """Pass the outcome to all groups of a mesh, one after the other."""
        if why:  # tell ranks that wait in other groups at once
            for matter, table in tables:
                self._round(matter, table, stage).post(Offer((FALLBACK,), {"why": why}))
            return why
        for matter, table in tables:
            offer = Offer((FALLBACK,) if why else (BEST, FALLBACK), {"why": why})
            ballot = self._round(matter, table, stage)
            answer = ballot.ask(offer, _passed_on, lambda _: None, self.timeout_s)
            if answer.value not in (BEST, FALLBACK):
                raise RankMismatchError(_no_way(matter, table, answer))
            if answer.value == FALLBACK:
                why = answer.why or "ranks of another group differ"
        return why

    def _round(self, matter: Matter, table: Table, stage: str) -> Ballot:
        name = self.names.get(matter.group, matter.question)
        if stage != PLAN:  # each stage has an outcome of its own
            name = f"{name}/{matter.question}"
        return Ballot(table, f"{name}/round")


def _tables(vote: Vote) -> list[tuple[Matter, Table]]:
    """Return the groups that have other ranks to ask."""
    if not (dist.is_available() and dist.is_initialized()):
        return []
    tables = ((matter, Table.of(matter.group)) for matter in vote.matters)
    return [(matter, table) for matter, table in tables if table is not None]


def _named(base: str, question: str, best: str, table: Table) -> tuple[str, int]:
    """Name a question about a base, and count how many others this rank asked about it before.

    The same collectives may be planned again: on other terms, or in another graph that has another
    plan. All ranks then come to the same next variant. A rank that compiles again alone, on the
    terms of its last compile, is where it was.
    """
    mine = f"{base}/{AT}/{table.own}"
    known = json.loads(table.read(f"{mine}/names") or "{}")
    last = known.get("question")
    if last == question and best in known["names"]:
        name, variant = known["names"][best]
        return str(name), int(variant)
    variant = int(known.get("count", 0))
    name = f"{base}/{question}#{variant}"
    names = {**(known["names"] if last == question else {}), best: [name, variant]}
    known = {"question": question, "count": variant + 1, "names": names}
    table.write(f"{mine}/names", json.dumps(known))
    return name, variant


def _left(matter: Matter, table: Table) -> Answer | None:
    """Return Inductor alone if the ranks have parted, or have differed on the same question."""
    why = table.read(PARTED) or table.read(f"{matter.question}/{PARTED}")
    return None if why is None else Answer(ALONE, why)


def _given_up(matter: Matter, table: Table) -> Answer | None:
    """Return the answer of a rank that gave up the same collectives, asked on other terms."""
    for position in range(len(table.ranks)):
        there = _record(table, f"{matter.content}/{AT}/{position}")
        if position != table.own and there is not None:
            answer = Ballot(table, str(there["name"])).answer()
            if answer is not None and answer.value is None:
                return answer
    return None


def _record(table: Table, key: str) -> dict[str, Any] | None:
    text = table.read(key)
    return None if text is None else dict(json.loads(text))


def _nothing_to_change(vote: Vote) -> bool:
    return all(matter.best == ALONE for matter in vote.matters)


def _is_first(vote: Vote, variants: Mapping[str, int]) -> bool:
    return all(variants.get(matter.group, 0) == 0 for matter in vote.matters)


def _passed_on(offers: Mapping[int, Offer]) -> str:
    said = (str(offer.says.get("why", "")) for offer in offers.values())
    return next(filter(None, said), "ranks of another group differ")


def _explained(table: Table) -> Callable[[Mapping[int, Offer]], str]:
    """Return a function that explains how the offers of two ranks differ."""

    def explain(offers: Mapping[int, Offer]) -> str:
        mine = offers[table.own]
        for position, other in offers.items():
            if lacks := other.says.get("lacks"):
                return f"rank {table.ranks[position]}: {lacks}"
        for position, other in offers.items():
            if other.accepts[0] != mine.accepts[0]:
                detail = difference(mine.says, other.says) or "one of them leaves it to Inductor"
                return _differ(table, table.ranks[table.own], table.ranks[position], detail)
        return f"other ranks of group {table.group} differ"

    return explain


def _differ(table: Table, here: int, there: int, detail: str) -> str:
    return (
        f"ranks {here} and {there} of group {table.group} planned different collectives: {detail}"
        f" (here is rank {here}); check that all ranks run the same model, options and version"
    )


def _no_way(matter: Matter, table: Table, answer: Answer) -> str:
    if answer.value is None:
        return answer.why
    return (
        f"the ranks of group {table.group} have agreed on another plan or order than rank"
        f" {table.ranks[table.own]} has: {matter.says.get('summary', matter.says.get('order', ''))}"
    )
