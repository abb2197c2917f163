"""Plans again when the link has become slower or faster than the plan assumed.

Every ``watch`` steps the ranks of a group time a collective, agree on the slowest rank's time, and
compare it with the link table's. Only if several probes in a row find the link outside the
tolerated range is the graph compiled again for the link as it is now. All ranks do so at the same
call of the graph, at the beginning of a step. After each recompilation more probes must agree, so
that a fluctuating link does not make the job compile forever.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from domino_compile import _compat
from domino_compile.lowering.request import Compiled
from domino_compile.report import CompileReport
from domino_compile.runtime.guard import agreed

log = logging.getLogger(__name__)

#: Probes that must agree before planning again; the number doubles each time.
PROBES = 3
#: Wire times may differ from the plan's by this factor in either direction. Collectives of one size
#: differ by a third between NCCL algorithms, and plans change little below this factor.
TOLERATED = 1.5
#: A probe is the fastest of this many collectives, because the first waits for the slowest rank.
REPEATS = 3
#: What ranks call a probe. All of them make the n-th one of a group together.
PROBE = "probe"
#: The most bytes of a probe.
MOST_BYTES = 8 << 20


class Judge:
    """Decides from probes when to plan again. The same probes give the same decisions.

    Args:
        planned: How many times slower than its table the plan assumes the link to be.
    """

    def __init__(self, planned: float = 1.0) -> None:
        self.planned = planned
        self.patience = PROBES
        self._probes: list[float] = []

    def hear(self, slower: float) -> bool:
        """Record one probe, as a multiple of the table's time; return whether to plan again."""
        self._probes = [*self._probes, slower][-self.patience :]
        if len(self._probes) < self.patience:
            return False
        least, most = min(self._probes), max(self._probes)
        if least <= self.planned * TOLERATED and most >= self.planned / TOLERATED:
            return False
        middle = statistics.median(self._probes)
        self.planned = 2.0 ** (round(2 * math.log2(middle)) / 2)  # in steps of a factor 1.41
        self.patience *= 2
        self._probes = []
        return True


class WatchedLink:
    """The state of a group's link, shared by all graphs of one process."""

    def __init__(self) -> None:
        self.judge = Judge()
        self._prober: weakref.ref[Watching] | None = None

    def prober(self, asking: Watching) -> Watching:
        """Return the graph whose calls are counted: the first one that is still in use."""
        first = self._prober() if self._prober is not None else None
        if first is None:
            self._prober, first = weakref.ref(asking), asking
        return first


_links: weakref.WeakKeyDictionary[Any, WatchedLink] = weakref.WeakKeyDictionary()


def watched(compiled: Compiled) -> Compiled:
    """Watch a program's link and plan it again when the link changes, if the options ask."""
    request, options = compiled.request, compiled.request.options
    if not options.watch or not _can_be_watched(compiled):
        return compiled

    def again(slower: float, inputs: Sequence[Any]) -> Callable[..., Any]:
        return request.again(inputs, slower, patience_s).compile().program

    # The ranks come here together: they have just met in a probe, so a rank that is later than a
    # collective may be is lost, and the others should not wait as long as for a first compile.
    groups = compiled.report.tensor_parallel_groups()
    patience_s = min(options.check_timeout_s, *map(_compat.group_timeout_s, groups))
    table_us = partial(_table_us, compiled)
    return compiled.run_by(
        Watching(compiled.program, again, compiled.report, table_us, options.watch, patience_s)
    )


def _can_be_watched(compiled: Compiled) -> bool:
    """Return whether the graph can be planned again; dynamic sizes would be lost."""
    inputs = compiled.request.inputs
    sizes = [n for x in inputs if isinstance(x, torch.Tensor) for n in x.shape]
    symbols = (torch.SymInt, torch.SymFloat, torch.SymBool)
    return (
        compiled.pipeline.facts.cost_model is not None
        and bool(compiled.report.tensor_parallel_groups())
        and not any(isinstance(value, symbols) for value in (*sizes, *inputs))
    )


def _table_us(compiled: Compiled, group: str, nbytes: int) -> float:
    cost = compiled.pipeline.facts.cost_model
    assert cost is not None
    return cost.table(group).time_us("all_reduce", nbytes)


class Watching:
    """The program of one graph, compiled again when the link of its largest group changes.

    Only tensor-parallel groups count, and there must be one, because the plan is for their links.

    Args:
        program: The program as first compiled.
        again: A function that recompiles it for a link ``slower`` times slower than its table, with
            the inputs of the current call.
        report: The report of the graph.
        table_us: A function that returns the link table's time of an all-reduce in a group, given
            its bytes.
        every: The number of calls between two probes.
        timeout_s: How many seconds to wait for other ranks.
    """

    def __init__(
        self,
        program: Callable[..., Any],
        again: Callable[[float, Sequence[Any]], Callable[..., Any]],
        report: CompileReport,
        table_us: Callable[[str, int], float],
        every: int,
        timeout_s: float,
    ) -> None:
        self.program, self.again, self.report = program, again, report
        self.table_us, self.every, self.timeout_s = table_us, every, timeout_s
        groups = report.tensor_parallel_groups()
        watched = (c for c in report.collectives if c.group in groups)
        largest = max(watched, key=lambda c: c.bytes)
        self.group, self.nbytes = largest.group, min(largest.bytes, MOST_BYTES)
        self.link = _links.setdefault(_compat.group_named(self.group), WatchedLink())
        self.planned = 1.0
        self.calls = 0

    def __call__(self, *args: Any) -> Any:
        """Run the program, and probe the link first every ``every`` calls."""
        self.calls += 1
        if self.calls % self.every == 0 and self.link.prober(self) is self:
            self._probe(args)
        if self.planned != self.link.judge.planned:
            self.planned = self.link.judge.planned
            self.program = self.again(self.planned, args)
        return self.program(*args)

    def _probe(self, args: Sequence[Any]) -> None:
        devices = (x.device for x in args if isinstance(x, torch.Tensor))
        device = max(devices, key=lambda device: device.type != "cpu", default=None)
        here_us = fastest_us(_compat.group_named(self.group), self.nbytes, device)
        names = dict.fromkeys((c.group for c in self.report.collectives), PROBE)
        (slowest,) = agreed([here_us], self.report, self.timeout_s, names)
        slower = slowest / self.table_us(self.group, self.nbytes)
        if self.link.judge.hear(slower):
            log.info(
                "group %s: collectives take %.2f times the link table's time (%d probes): planning"
                " again",
                *(self.group, slower, self.link.judge.patience // 2),
            )


def fastest_us(group: Any, nbytes: int, device: torch.device | None) -> float:
    """Return the time of an all-reduce in microseconds, the fastest of several in a row."""
    payload = torch.zeros(max(1, nbytes // 4), device=device)
    on_gpu = payload.is_cuda
    times = []
    dist.all_reduce(payload, group=group)  # the ranks wait for each other here
    for _ in range(REPEATS):
        if on_gpu:
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            dist.all_reduce(payload, group=group)
            ended.record()
            ended.synchronize()
            times.append(float(began.elapsed_time(ended)) * 1e3)
        else:
            start = time.perf_counter()
            dist.all_reduce(payload, group=group)
            times.append((time.perf_counter() - start) * 1e6)
    return min(times)
