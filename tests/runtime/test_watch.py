"""When a changed link makes a plan anew: pure decisions, and one program that follows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import fx

from domino_compile import _compat, fake_ranks
from domino_compile.lowering.request import Compiled, Request
from domino_compile.options import Options
from domino_compile.report import CollectiveReport, CompileReport
from domino_compile.runtime import watch
from domino_compile.runtime.watch import PROBES, Judge, Watching


def heard(judge: Judge, *probes: float) -> list[bool]:
    return [judge.hear(probe) for probe in probes]


def test_a_link_that_stays_slower_is_planned_for_once() -> None:
    judge = Judge()
    assert heard(judge, 1.0, 1.1, 0.9, 4.0, 4.1, 3.9) == [False] * 5 + [True]
    assert judge.planned == 4.0
    assert not any(heard(judge, *[4.0] * 50))


def test_a_link_that_recovers_is_planned_for_again_after_more_probes() -> None:
    judge = Judge()
    heard(judge, *[4.0] * PROBES)
    assert heard(judge, *[1.0] * 2 * PROBES) == [False] * (2 * PROBES - 1) + [True]
    assert judge.planned == 1.0


def test_one_slow_probe_is_nothing() -> None:
    judge = Judge()
    assert not any(heard(judge, *[1.0, 9.0, 1.0, 1.0, 9.0, 9.0, 1.0] * 20))


def test_a_link_that_flaps_is_planned_for_ever_more_rarely() -> None:
    judge, made = Judge(), 0
    for number in range(10_000):
        made += judge.hear(1.0 if number // 20 % 2 else 8.0)
    assert made <= 4


def test_small_changes_are_tolerated() -> None:
    judge = Judge()
    assert not any(heard(judge, *[1.45] * 20, *[0.7] * 20))


@pytest.fixture
def group() -> Iterator[Any]:
    with fake_ranks(2):
        yield dist.group.WORLD


def collective(group: Any, nbytes: int = 1024) -> CollectiveReport:
    name = group.group_name
    return CollectiveReport("a", "all_reduce", name, 2, nbytes, "", "forward", "sliced")


def test_the_link_that_the_plan_is_for_is_watched(
    group: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that of data-parallel ranks, of larger collectives; by the device of the computation."""
    probes: list[tuple[int, str]] = []
    monkeypatch.setattr(
        watch,
        "fastest_us",
        lambda asked, nbytes, device: probes.append((nbytes, device.type)) or 100.0,
    )
    gradients = replace(collective(group, 4096), group="another", tensor_parallel=False)
    report = CompileReport(0, collectives=[gradients, collective(group)])
    with monkeypatch.context() as patched:
        patched.setattr(watch, "agreed", lambda own, *_: own)
        watching = Watching(lambda *x: x, lambda *_: None, report, lambda *_: 100.0, 1, 1.0)
        watching(torch.zeros(()), torch.zeros(2, device="meta"))
    assert probes == [(1024, "meta")]


def watching(group: Any, made: list[float], every: int = 2) -> Watching:
    def again(slower: float, inputs: Any) -> Any:
        made.append(slower)
        assert [type(x) for x in inputs] == [torch.Tensor]
        return lambda x: x + slower

    report = CompileReport(0, collectives=[collective(group)])
    return Watching(lambda x: x, again, report, lambda name, nbytes: 100.0, every, 1.0)


def test_all_graphs_of_a_group_follow_one_probe(
    group: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes: list[int] = []

    def fastest_us(asked: Any, nbytes: int, device: Any) -> float:
        assert asked is group and nbytes == 1024 and device == torch.device("cpu")
        probes.append(1)
        return 400.0

    monkeypatch.setattr(watch, "fastest_us", fastest_us)
    first_made: list[float] = []
    second_made: list[float] = []
    first, second = watching(group, first_made), watching(group, second_made)
    x = torch.zeros(1)
    results = [(first(x).item(), second(x).item()) for _ in range(2 * PROBES)]
    # the third probe comes with the sixth call of the first graph, and counts at once for both
    assert results == [(0, 0)] * (2 * PROBES - 1) + [(4, 4)]
    assert len(probes) == PROBES and first_made == second_made == [4.0]


def test_a_graph_that_is_gone_is_followed_by_another(
    group: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "fastest_us", lambda *_: 800.0)
    made: list[float] = []
    first, second = watching(group, []), watching(group, made)
    x = torch.zeros(1)
    first(x), first(x)
    del first
    for _ in range(2 * PROBES):
        second(x)
    assert made == [8.0]


def test_ranks_that_plan_again_wait_no_longer_than_for_a_collective(
    group: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have just met in a probe; ``check_timeout_s`` is for ranks that compile alone."""
    monkeypatch.setattr(_compat, "group_timeout_s", lambda name: 7.0)
    request = Request.of(fx.symbolic_trace(torch.nn.ReLU()), [torch.ones(1)], Options(watch=1))
    again: list[Request] = []
    monkeypatch.setattr(
        Request, "compile", lambda self: again.append(self) or SimpleNamespace(program=None)
    )
    pipeline = SimpleNamespace(
        report=CompileReport(0, collectives=[collective(group)]),
        facts=SimpleNamespace(cost_model=object()),
    )
    program: Any = watch.watched(Compiled(lambda x: x, pipeline, request)).program  # type: ignore[arg-type]
    assert program.timeout_s == 7.0
    program.again(2.0, request.inputs)
    (asked,) = again
    first, second = request._rank_check(), asked._rank_check()
    assert first is not None and first.timeout_s == request.options.check_timeout_s
    assert second is not None and second.timeout_s == 7.0 and asked.slower == 2.0


def test_a_probe_is_a_time(group: Any) -> None:
    assert 0 < watch.fastest_us(group, 1 << 10, torch.device("cpu")) < 1e6
