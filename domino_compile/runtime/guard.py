"""``guard="measure"``: the planned and the uncut program, timed in the first steps of the real job.

Both programs are correct, so either can run a step; the program that runs a forward also runs its
backward (with dropout, each draws its own masks). After a few calls of each they take turns. A step
is timed from the beginning of one call to the beginning of the next, which includes the backward,
the optimiser and everything else in the job. The slowest rank counts, so all ranks decide from the
same numbers and keep the same program. The other program is dropped.

Ranks find each other's times by the *plan*: by the name of the question that they answered when
they agreed on it (``agreement.check``), not by how many graphs each of them has measured. If a rank
compiles a plan again that has been measured (a guard of Dynamo failed on this rank only), it keeps
the same kind of program without measuring, because the other ranks do not measure again.
"""

from __future__ import annotations

import gc
import json
import logging
import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from domino_compile import _compat
from domino_compile.agreement.bounded import BoundedStore
from domino_compile.errors import RankMismatchError
from domino_compile.lowering.request import Compiled
from domino_compile.pipeline import reporting
from domino_compile.report import CompileReport, MeasuredReport

log = logging.getLogger(__name__)

#: Calls of each program before it is timed: backward is compiled in the first, CUDA graphs are
#: recorded in the second and third.
WARM_UP = 3
#: Timed calls of each program.
ROUNDS = 5
#: The two programs, as a report names them.
PLANNED, UNCUT = "planned", "uncut"
#: The order of the calls: planned (0) and uncut (1).
TURNS = (0,) * WARM_UP + (1,) * WARM_UP + (0, 1) * ROUNDS


class GroupNumbers:
    """Numbers messages of the same name between the ranks of a group, so that the n-th ones match.

    A new group with the same name may have other ranks, so its numbers start again.
    """

    def __init__(self) -> None:
        self._last: weakref.WeakKeyDictionary[Any, dict[str, int]] = weakref.WeakKeyDictionary()

    def next(self, group: str, name: str) -> int:
        """Return the next number of a name in a group, starting at 0."""
        numbers = self._last.setdefault(_compat.group_named(group), {})
        numbers[name] = numbers.get(name, -1) + 1
        return numbers[name]


_numbers = GroupNumbers()


@dataclass(frozen=True)
class Plan:
    """What all ranks of a group call the same plan.

    Attributes:
        group: The first group of the graph; empty if there is none.
        names: The name of the plan in each group.
    """

    group: str
    names: Mapping[str, str]

    @staticmethod
    def of(compiled: Compiled) -> Plan:
        """Return the plan of a compile, named as its ranks have agreed on it."""
        report, check = compiled.report, compiled.pipeline.check
        agreed_on = check.names if check is not None else {}
        digest = report.digest()
        names = {c.group: agreed_on.get(c.group, digest) for c in report.collectives}
        return Plan(next(iter(names), ""), names)

    def known(self) -> MeasuredReport | None:
        """Return the outcome of an earlier measurement of this plan in the same group."""
        return self._outcomes().get(self.names.get(self.group, ""))

    def remember(self, outcome: MeasuredReport) -> None:
        """Keep the outcome for graphs that are compiled with this plan later."""
        self._outcomes()[self.names.get(self.group, "")] = outcome

    def _outcomes(self) -> dict[str, MeasuredReport]:
        if not self.group:
            return {}
        return _outcomes.setdefault(_compat.group_named(self.group), {})


#: The outcomes of measurements by process group and by the plan's name in it.
_outcomes: weakref.WeakKeyDictionary[Any, dict[str, MeasuredReport]] = weakref.WeakKeyDictionary()


def guarded(compiled: Compiled) -> Compiled:
    """Wrap a program to time it against the uncut one in its first steps, if the options say so.

    A graph that is left to Inductor alone is not timed, nor is a plan that was timed before.
    """
    request, options = compiled.request, compiled.request.options
    if options.guard != "measure" or not any(part.rewrites for part in compiled.pipeline.parts):
        return compiled
    plan, done = Plan.of(compiled), compiled.pipeline.write
    known = plan.known()
    if known is not None and known.kept == PLANNED:
        _record(compiled.report, known, done)
        return compiled
    uncut = request.again(request.inputs).compile_uncut()
    if known is not None:
        _record(compiled.report, known, done)
        return compiled.run_by(uncut)
    return compiled.run_by(
        Measuring(
            *(compiled.program, uncut, compiled.report, done, options.check_timeout_s),
            plan=plan,
        )
    )


def _record(report: CompileReport, outcome: MeasuredReport, done: Callable[[], None]) -> None:
    reporting.measured(report, outcome)
    log.info("%s", report.summary())
    done()


class Measuring:
    """The program of one graph: two programs that take turns, and then the faster one.

    Args:
        planned: The program that this package planned.
        uncut: The program that Inductor alone compiled.
        report: The report of the graph, which gets the outcome.
        done: A function that is called when the outcome is in the report.
        timeout_s: How many seconds to wait for other ranks.
        plan: How the ranks call the plan.
    """

    def __init__(
        self,
        planned: Callable[..., Any],
        uncut: Callable[..., Any],
        report: CompileReport,
        done: Callable[[], None],
        timeout_s: float,
        plan: Plan,
    ) -> None:
        self.programs = [planned, uncut]
        self.report, self.done, self.timeout_s = report, done, timeout_s
        self.plan = plan
        self.marks: list[Any] = []

    def __call__(self, *args: Any) -> Any:
        """Run the program that has its turn."""
        if len(self.programs) == 1:
            return self.programs[0](*args)
        self.marks.append(_mark(args))
        if len(self.marks) > len(TURNS):
            self._decide()
            return self.programs[0](*args)
        return self.programs[TURNS[len(self.marks) - 1]](*args)

    def _decide(self) -> None:
        times: list[list[float]] = [[], []]
        for turn, began, ended in zip(TURNS, self.marks, self.marks[1:], strict=False):
            times[turn].append(_between_ms(began, ended))
        here = [statistics.median(steps[WARM_UP:]) for steps in times]
        planned_ms, uncut_ms = agreed(here, self.report, self.timeout_s, self.plan.names)
        keep = 0 if planned_ms < uncut_ms else 1
        outcome = MeasuredReport(
            kept=(PLANNED, UNCUT)[keep],
            planned_ms=round(planned_ms, 4),
            uncut_ms=round(uncut_ms, 4),
            rounds=ROUNDS,
        )
        self.plan.remember(outcome)
        self.programs = [self.programs[keep]]
        self.marks.clear()
        gc.collect()  # compiled programs have reference cycles; free their buffers now
        _record(self.report, outcome, self.done)


def agreed(
    here: Sequence[float], report: CompileReport, timeout_s: float, names: Mapping[str, str]
) -> list[float]:
    """Return each number's maximum over all ranks that share a collective of the graph.

    The groups follow one another in the order of the graph, so on a mesh every rank gets the
    maximum over the whole mesh, whichever groups it belongs to.

    Args:
        here: The numbers of this rank.
        report: The report of the graph.
        timeout_s: How many seconds to wait for other ranks.
        names: What the numbers are about, by group; the same on all ranks.

    Raises:
        RankMismatchError: A rank does not respond in time.
    """
    most = list(here)
    if not (dist.is_available() and dist.is_initialized()):
        return most
    for group in dict.fromkeys(c.group for c in report.collectives):
        shared = BoundedStore.of(group)
        if shared is not None:
            most = _largest(most, group, names[group], *shared, timeout_s)
    return most


def _largest(
    here: list[float],
    group: str,
    name: str,
    store: BoundedStore,
    ranks: list[int],
    position: int,
    timeout_s: float,
) -> list[float]:
    number = _numbers.next(group, name)
    keys = [f"domino_compile/measured/{name}/{number}/{at}" for at in range(len(ranks))]
    store.set(keys[position], json.dumps(here))
    try:
        store.wait(keys, timedelta(seconds=timeout_s))
    except RankMismatchError:
        raise
    except (RuntimeError, dist.DistError):
        raise RankMismatchError(
            f"a rank of group {group} (ranks {ranks}) did not report its measurement {number}"
            f" (options guard='measure' and watch) within {timeout_s:g} s; do all ranks run the"
            " same number of steps, and is the network up?"
        ) from None
    everyone = [json.loads(store.get(key)) for key in keys]
    return [max(times) for times in zip(*everyone, strict=True)]


def _mark(args: Sequence[Any]) -> Any:
    """Return a point in time: on the device's stream if the inputs are on a GPU, or the clock's."""
    device = next((x.device for x in args if isinstance(x, torch.Tensor) and x.is_cuda), None)
    if device is None:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def _between_ms(began: Any, ended: Any) -> float:
    if isinstance(began, float):
        return float(ended - began) * 1e3
    ended.synchronize()
    return float(began.elapsed_time(ended))
