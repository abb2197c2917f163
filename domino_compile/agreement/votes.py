"""The questions that ranks ask each other about a program, as data: its plan and its order.

``check`` describes when each question is asked, and what it leaves out because ranks may differ.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from domino_compile.cost.rates_file import VARIABLE
from domino_compile.graph.collectives import Launch
from domino_compile.report import CompileReport

#: The answer that every plan accepts: Inductor compiles the program alone.
ALONE = "inductor"
#: The answer of a rank that has proved its graph.
PROVED = "proved"
#: The answer that every transport of collectives accepts: NCCL carries all.
NCCL = "NCCL"
#: The stage of a compile that asks for the plan; the others are phases of lowered graphs.
PLAN = "plan"
#: Collectives whose sizes differ by rank.
OF_ANY_SIZE = ("all_to_all_single",)


@dataclass(frozen=True)
class Matter:
    """The question for one process group, as plain data that is kept with cached plans.

    Attributes:
        group: The name of the group.
        content: The subject of the question, the same on all ranks that belong together.
        question: The name of the question; for a plan, its content and the compile's terms.
        best: The preferred answer.
        fallback: Another acceptable answer; empty if only ``best`` is acceptable.
        says: Explains a difference to other ranks.
    """

    group: str
    content: str
    question: str
    best: str
    fallback: str = ""
    says: Mapping[str, Any] = field(default_factory=dict)

    @property
    def accepts(self) -> tuple[str, ...]:
        """Return the acceptable answers, best first."""
        return tuple(dict.fromkeys(filter(None, (self.best, self.fallback))))


@dataclass(frozen=True)
class Vote:
    """The questions of one stage of a compile.

    Attributes:
        stage: ``plan``, or the phase of the lowered graph whose order is in question.
        matters: One question per group, in the order of the graph.
    """

    stage: str
    matters: tuple[Matter, ...]

    @property
    def key(self) -> str:
        """Return the whole question as one text."""
        return " ".join((self.stage, *(matter.question for matter in self.matters)))

    def taken(self, best: bool) -> Vote:
        """Return the same vote of a program that is compiled: it has one of the two answers."""
        taken = (m.best if best else m.fallback for m in self.matters)
        pairs = zip(self.matters, taken, strict=True)
        return Vote(self.stage, tuple(replace(m, best=x, fallback="") for m, x in pairs))

    def or_alone(self) -> Vote:
        """Return the same vote, where a compiled program can still be left to Inductor instead."""
        return Vote(self.stage, tuple(replace(m, fallback=ALONE) for m in self.matters))

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Vote:
        """Make a vote from the result of ``dataclasses.asdict``."""
        return Vote(data["stage"], tuple(Matter(**matter) for matter in data["matters"]))


@dataclass(frozen=True)
class Terms:
    """The inputs of a plan besides the graph. Ranks with other terms would plan differently.

    Attributes:
        options: A digest of the options that shape the program.
        rates: The identity of the cost model's rates.
        version: The version of this package and of torch.
    """

    options: str = ""
    rates: str = ""
    version: str = ""


def plan_vote(report: CompileReport, plan: Sequence[str], terms: Terms) -> Vote:
    """Return the question for a plan.

    Args:
        report: The report, with the collectives of the captured graph.
        plan: What is done with the graph; empty: nothing.
        terms: The terms of the compile.
    """
    parallel = [c for c in report.collectives if c.tensor_parallel]
    numbers = {group: n for n, group in enumerate(dict.fromkeys(c.group for c in parallel))}
    matters = []
    for group in numbers:
        captured = [
            f"{c.kind}{_size(c.kind, c.bytes, c.group == group)} of {c.ranks} ranks"
            f" (group #{numbers[c.group]}), {c.phase}"
            for c in parallel
        ]
        says = {
            "options": report.options,
            "rates": terms.rates,
            "version": terms.version,
            "plan": list(plan) or ["left to Inductor alone"],
            "captured": captured,
        }
        content = _digest(captured)
        best = _digest(plan) if plan else ALONE
        question = _digest(content, terms.options, terms.rates, terms.version)
        matters.append(Matter(group, content, question, best, ALONE if plan else "", says))
    return Vote(PLAN, tuple(matters))


def order_vote(
    phase: str, wanted: Sequence[Launch], original: Sequence[Launch], groups: Sequence[str]
) -> Vote:
    """Return the question for the order of a lowered graph's collectives.

    Args:
        phase: ``forward``, ``backward`` or ``inference``.
        wanted: The collectives in the planned order.
        original: The collectives in the order in which they were found.
        groups: The tensor-parallel groups, in the order of the graph.
    """
    matters = []
    for group in groups:
        orders = [
            [f"{x.kind}{_size(x.kind, x.bytes, True)}" for x in launches if x.group == group]
            for launches in (wanted, original)
        ]
        if not orders[0]:
            continue
        content = _digest(sorted(orders[0]))
        # Slices are alike but for their names. In the order of the program they need none.
        names = [x.name for x in wanted if x.group == group]
        best, fallback = _digest(orders[0], names), _digest(orders[1])
        question = _digest(phase, content)
        matters.append(Matter(group, content, question, best, fallback, {"order": orders[0]}))
    return Vote(phase, tuple(matters))


def transport_vote(
    phase: str, launches: Sequence[tuple[Launch, str]], groups: Sequence[str]
) -> Vote:
    """Return the question what carries the collectives of a lowered graph.

    Args:
        phase: As in ``order_vote``.
        launches: The collectives in their order, each with how it is carried; empty: by NCCL.
        groups: The tensor-parallel groups, in the order of the graph.
    """
    matters = []
    for group in groups:
        ours = [(x, way) for x, way in launches if x.group == group]
        sizes = [f"{x.kind}{_size(x.kind, x.bytes, True)}" for x, _ in ours]
        ways = [f"{size} by {way or NCCL}" for size, (_, way) in zip(sizes, ours, strict=True)]
        content = _digest(sorted(sizes))
        carried = any(way for _, way in ours)
        best, fallback = (_digest(ways), NCCL) if carried else (NCCL, "")
        question = _digest("transport", phase, content)
        matters.append(Matter(group, content, question, best, fallback, {"order": ways}))
    return Vote(f"transport {phase}", tuple(matters))


def proved_vote(phase: str, groups: Sequence[str], missing: str) -> Vote:
    """Return the question whether all ranks have proved what their passes made of a lowered graph.

    With the option ``transport`` each rank has a graph of its own, so one alone may fail to.

    Args:
        phase: As in ``order_vote``.
        groups: The tensor-parallel groups, in the order of the graph.
        missing: What is not proved on this rank; empty if all is.
    """
    best, fallback = (ALONE, "") if missing else (PROVED, ALONE)
    stage, says = f"proved {phase}", {"lacks": missing}
    return Vote(stage, tuple(Matter(group, "", stage, best, fallback, says) for group in groups))


def emitted_vote(phase: str, order: Mapping[str, Sequence[str]], missing: str) -> Vote:
    """Return the question whether the code of all ranks has the same, established order.

    Args:
        phase: As in ``order_vote``.
        order: The collectives of each group in this rank's code.
        missing: What is not established about that code; empty if all is.
    """
    matters = []
    for group, launches in order.items():
        best, fallback = (ALONE, "") if missing else (_digest(list(launches)), ALONE)
        says = {"order": list(launches), "lacks": missing}
        matters.append(Matter(group, "", f"emitted {phase}", best, fallback, says))
    return Vote(f"emitted {phase}", tuple(matters))


def groups_in_order(report: CompileReport) -> list[str]:
    """Return the tensor-parallel groups in the order of the graph, the same on all their ranks."""
    return list(dict.fromkeys(c.group for c in report.collectives if c.tensor_parallel))


def overlap_vote(report: CompileReport, missing: str) -> Vote:
    """Return the question whether all ranks' collectives are hidden (the option ``require``).

    Args:
        report: The report of the compile.
        missing: Which collective of this rank is not hidden, and why; empty if all are.
    """
    groups = groups_in_order(report)
    best, fallback = ("exposed", "") if missing else ("hidden", "exposed")
    says = {"lacks": missing}
    return Vote("require", tuple(Matter(g, "", "require", best, fallback, says) for g in groups))


def _size(kind: str, nbytes: int, shared: bool) -> str:
    return f" of {nbytes} bytes" if shared and kind not in OF_ANY_SIZE else ""


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def difference(mine: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Describe the first difference between what two ranks say; empty if there is none."""
    if mine.get("rates") != other.get("rates"):
        return f"the rates of {VARIABLE} differ; all ranks need the same file"
    if mine.get("options") != other.get("options"):
        return f"the options are {mine.get('options')} here and {other.get('options')} there"
    if mine.get("version") != other.get("version"):
        return "the versions of domino_compile or torch differ"
    for name in ("captured", "order"):
        here, there = mine.get(name, []), other.get(name, [])
        for position, (a, b) in enumerate(zip(here, there, strict=False)):
            if a != b:
                return f"collective {position} is {a} here and {b} there"
        if len(here) != len(there):
            return f"{len(here)} collectives here and {len(there)} there"
    plans = [", ".join(said.get("plan", [])) for said in (mine, other)]
    return f"the plan is {plans[0]} here and {plans[1]} there" if plans[0] != plans[1] else ""
