"""Ranks as threads over one store: programs are agreed on, and their collectives written down."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

import torch.distributed as dist

from domino_compile.agreement import check
from domino_compile.agreement.ballot import Table
from domino_compile.agreement.check import RankCheck, RanksDiffer
from domino_compile.agreement.votes import Terms, Vote, overlap_vote
from domino_compile.errors import RankMismatchError
from domino_compile.report import CollectiveReport, CompileReport

_own = threading.local()


@dataclass(frozen=True)
class Program:
    """What a rank compiles.

    Attributes:
        collectives: of the captured graph: the group (a key of the rank's groups) and the bytes.
        plan: what this rank wants; empty to leave it to Inductor alone.
        options: as they are described.
        broken: where the graph broke.
        kinds: of collectives, if not all-reduces.
    """

    collectives: tuple[tuple[str, int], ...]
    plan: tuple[str, ...] = ("rows 2+2",)
    options: str = "defaults"
    broken: str = ""
    kind: str = "all_reduce"

    def report(self, groups: Mapping[str, tuple[int, ...]]) -> CompileReport:
        """As the passes would have filled it in."""
        entries = [
            CollectiveReport(
                *(f"c{n}", self.kind, str(groups[g]), len(groups[g]), size, ""),
                *("forward", "reordered"),
            )
            for n, (g, size) in enumerate(self.collectives)
        ]
        return CompileReport(0, self.options, collectives=entries)


@dataclass
class Rank:
    """What one rank did.

    Attributes:
        wires: by group, what went over it, in order.
        outcomes: of its programs: ``planned``, ``alone``, or the error.
        whys: why it was left alone.
    """

    wires: dict[str, list[str]] = field(default_factory=dict)
    outcomes: list[str] = field(default_factory=list)
    whys: list[str] = field(default_factory=list)


def live(
    rank: int,
    groups: Mapping[str, tuple[int, ...]],
    programs: Sequence[Program],
    timeout_s: float,
    seed: int,
) -> Rank:
    """Compile and run programs one after the other, with pauses."""
    _own.rank = rank
    done, chance = Rank({str(ranks): [] for ranks in groups.values()}), random.Random(seed)
    for program in programs:
        time.sleep(chance.random() * 0.01)
        report = program.report(groups)
        made = RankCheck(Terms(program.options, "", ""), timeout_s, program.broken)
        captured = [(c.group, f"{c.kind} {c.bytes}") for c in report.collectives]
        try:
            made.plan(report, program.plan)
        except RanksDiffer as differ:
            done.outcomes.append("alone")
            done.whys.append(str(differ))
        except RankMismatchError as error:
            done.outcomes.append(str(error))
            continue
        else:
            done.outcomes.append("planned" if program.plan else "alone")
        for group, wire in captured:
            ours = f" as {program.plan}" if done.outcomes[-1] == "planned" else ""
            done.wires[group].append(wire + ours)
    return done


@contextmanager
def one_store() -> Iterator[None]:
    """Groups, named by their ranks, meet in one store; each thread is a rank."""
    store = dist.HashStore()

    def table(group: str) -> Table:
        ranks = [int(x) for x in group.strip("(),").split(",")]
        return Table(group, dist.PrefixStore(group, store), ranks, ranks.index(_own.rank))

    with (
        mock.patch.object(Table, "of", staticmethod(table)),
        mock.patch.object(check.dist, "is_initialized", lambda: True),
    ):
        yield


def run(
    programs: Sequence[Sequence[Program]],
    groups: Sequence[Mapping[str, tuple[int, ...]]] | None = None,
    timeout_s: float = 20.0,
    seed: int = 0,
) -> list[Rank]:
    """Each rank's programs, at the same time."""
    world = tuple(range(len(programs)))
    groups = groups or [{"tp": world}] * len(world)
    done: dict[int, Rank] = {}

    def work(rank: int) -> None:
        done[rank] = live(rank, groups[rank], programs[rank], timeout_s, 100 * seed + rank)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in world]
    with one_store():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout_s + 30)
    return [done[rank] for rank in world]


def agree_on_the_wire(ranks: Sequence[Rank]) -> bool:
    """Whether all ranks of each group sent the same over it, in the same order."""
    by_group: dict[str, list[list[str]]] = {}
    for rank in ranks:
        for group, wires in rank.wires.items():
            by_group.setdefault(group, []).append(wires)
    return all(wires == seen[0] for seen in by_group.values() for wires in seen)


def agree_on_overlap(missing: Sequence[str]) -> list[str]:
    """What each rank is told after agreeing on a plan, given what is missing on each."""
    return asked(lambda report, rank: overlap_vote(report, missing[rank]), len(missing))


def asked(
    vote: Callable[[CompileReport, int], Vote],
    ranks: int = 2,
    mesh: Sequence[Mapping[str, tuple[int, ...]]] = (),
) -> list[str]:
    """What each rank is told after agreeing on a plan and asking a question.

    Args:
        vote: the question of a rank.
        ranks: how many there are; their group is named by them, as ``(0, 1)``.
        mesh: the groups of each rank, if there are several.
    """
    groups = mesh or [{"tp": tuple(range(ranks))}] * ranks
    told = [""] * ranks

    def work(rank: int) -> None:
        _own.rank = rank
        report = Program(tuple((name, 64) for name in groups[rank])).report(groups[rank])
        made = RankCheck(Terms(), 20.0)
        made.plan(report, ("rows 2+2",))
        told[rank] = made.agree(vote(report, rank))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(ranks)]
    with one_store():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)
    return told
