"""All ranks run the same collectives in the same order, or none runs any.

The plan is a function of the graph, the options and the cost tables, so ranks agree by
construction. Should one of those differ all the same (another version, another option, a graph
that depends on the rank), the ranks would hang in a collective. Before a compiled graph runs for
the first time its ranks compare what they are about to do through the group's own key-value store,
where a difference is an error within seconds.
"""

from __future__ import annotations

import json
import weakref
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from domino_compile import _compat
from domino_compile.cost.rates_file import VARIABLE
from domino_compile.errors import RankMismatchError
from domino_compile.lowering.request import Compiled
from domino_compile.report import CompileReport


class GroupNumbers:
    """Numbers what the ranks of a process group compare: the n-th of each with the n-th of others.

    For each group itself: one that is made anew in its place may have other ranks, and begins anew.
    """

    def __init__(self) -> None:
        self._last: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def next(self, group: str) -> int:
        """The number of the next one, from 0."""
        known = _compat.group_named(group)
        number = self._last[known] = self._last.get(known, -1) + 1
        return number


_plans = GroupNumbers()


def checked(compiled: Compiled) -> Compiled:
    """A program that compares plans with the other ranks before it first runs, if options ask."""
    request, report, program = compiled.request, compiled.report, compiled.program
    if not request.options.check_ranks:
        return compiled
    pending = True

    def run(*args: Any) -> Any:
        nonlocal pending
        if pending:
            compare_ranks(report, request.rates, request.options.check_timeout_s)
            pending = False
        return program(*args)

    return compiled.run_by(run)


def compare_ranks(report: CompileReport, rates: str, timeout_s: float) -> None:
    """Compare a plan with the plans of the other ranks of each of its tensor-parallel groups.

    Also where the graph is left alone: another rank may have thought otherwise.

    Raises:
        RankMismatchError: a rank has another plan or rates, or does not come within the time.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    for group in report.tensor_parallel_groups():
        shared = _compat.shared_store(group)
        if shared is not None:
            _compare(report, rates, group, *shared, timeout_s)


def _compare(
    report: CompileReport,
    rates: str,
    group: str,
    store: Any,
    ranks: list[int],
    own: int,
    timeout_s: float,
) -> None:
    number = _plans.next(group)
    mine = {
        "options": report.options,
        "rates": rates,
        "order": report.collective_order(group),
    }
    store.set(_key(number, own), json.dumps(mine))
    for position, rank in enumerate(ranks):
        if position == own:
            continue
        try:
            store.wait([_key(number, position)], timedelta(seconds=timeout_s))
        except (RuntimeError, dist.DistError):
            raise RankMismatchError(
                f"rank {rank} has not compiled plan {number} of group {group} within"
                f" {timeout_s:g} s (option check_timeout_s); rank {ranks[own]} is about to run:"
                f" {report.summary()}"
            ) from None
        other = json.loads(store.get(_key(number, position)))
        found = difference(mine, other)
        if found:
            raise RankMismatchError(
                f"ranks {ranks[own]} and {rank} of group {group} planned different collectives:"
                f" {found}; options of rank {ranks[own]}: {report.options}; of rank {rank}:"
                f" {other['options']}; check that all ranks run the same model, options and version"
            )


def _key(number: int, position: int) -> str:
    return f"domino_compile/plan/{number}/{position}"


def difference(mine: dict[str, Any], other: dict[str, Any]) -> str:
    """The first thing that two ranks must agree on and do not, or nothing.

    Only the graphs that both have compiled are compared: a backward graph may be compiled
    later, and one rank may have it from a cache.
    """
    if mine["rates"] != other["rates"]:
        return f"the rates of {VARIABLE} differ; all ranks need the same file"
    orders = mine["order"], other["order"]
    for phase in [phase for phase in orders[0] if phase in orders[1]]:
        here, there = (order[phase] for order in orders)
        for position, (a, b) in enumerate(zip(here, there, strict=False)):
            if a != b:
                what = "the plan" if phase == "plan" else f"{phase} collective {position}"
                return f"{what} is {a!r} here and {b!r} there"
        if len(here) != len(there):
            return f"{phase} has {len(here)} collectives here, {len(there)} there"
    return ""
