"""A variant that fails: listed if it does on all ranks, else the end of them; and the rounds."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from domino_compile import _compat
from domino_compile.host.launch import RanksError
from domino_compile.tools.bench import run as bench
from domino_compile.tools.bench import world as worlds
from domino_compile.tools.bench.result import BenchResult, VariantResult
from domino_compile.tools.bench.run import Bench, Plan
from domino_compile.tools.bench.variants import Variant, parse_variants
from domino_compile.tools.bench.workload import Workload
from domino_compile.tools.bench.world import Place, World, open_world
from domino_compile.tools.quartiles import middle_half
from tests.tools.bench.test_result import example

ALONE, OF_SEVERAL = Place("cuda", "h200-nvlink-8"), Place("cpu", "demo-2", rank=1)


class Runner:
    """Compiles nothing, and cannot compile one variant."""

    def __init__(self, variant: Variant, *_: Any) -> None:
        if variant.label == "domino:2":
            raise RuntimeError("out of memory\nand a stack")
        self.result, self.first = VariantResult(variant.label), {"loss": 1}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, BenchResult]:
    monkeypatch.setattr(bench, "Runner", Runner)
    monkeypatch.setattr(bench, "errors", lambda *_: {})
    result = example()
    result.variants = []
    return Plan(parse_variants("domino:2,domino:3")), result


def bench_in(place: Place, plan: Plan, alike: bool = True) -> Bench:
    failed_alike = {"domino:2": alike}.__getitem__
    world: Any = SimpleNamespace(place=place, table=None, rank=place.rank or 0)
    world.failed_alike = failed_alike
    return Bench(Workload("tiny-gpt", 1, 2, 8, 2), plan, world, lambda *_: None)


@pytest.mark.parametrize("place", [ALONE, OF_SEVERAL])
def test_what_fails_everywhere_is_listed(made: tuple[Plan, BenchResult], place: Place) -> None:
    plan, result = made
    assert len(bench_in(place, plan).compile(result)) == 2
    assert [v.error for v in result.variants] == ["", "RuntimeError: out of memory", ""]
    assert [v.variant for v in result.variants] == ["inductor", "domino:2", "domino:3"]


def test_a_rank_does_not_go_on(made: tuple[Plan, BenchResult]) -> None:
    plan, result = made
    with pytest.raises(RanksError, match=r"^domino:2 failed: RuntimeError: out of memory$"):
        bench_in(OF_SEVERAL, plan, alike=False).compile(result)


def test_ranks_know_whether_they_fail_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    store, group = dist.HashStore(), SimpleNamespace(group_name="a group")
    monkeypatch.setattr(worlds, "OTHERS_TIMEOUT", timedelta(seconds=0.05))
    found = []
    for rank in (0, 1, 0):  # the first is not waited for long enough
        monkeypatch.setattr(_compat, "shared_store", lambda _, rank=rank: (store, [0, 1], rank))
        world = World(OF_SEVERAL, 2, rank, group, None, None)  # type: ignore[arg-type]
        found.append(world.failed_alike("domino:2"))
    assert found == [False, True, True]


@pytest.mark.parametrize(("place", "closed"), [(ALONE, True), (OF_SEVERAL, False)])
def test_groups_that_other_ranks_may_wait_in_are_left_to_the_end_of_the_process(
    monkeypatch: pytest.MonkeyPatch, place: Place, closed: bool
) -> None:
    ended: list[bool] = []
    opened: list[World] = []

    def make(*_: Any) -> Any:
        opened.append(SimpleNamespace())  # type: ignore[arg-type]
        return opened[0]

    monkeypatch.setattr(worlds, "_open", make)
    monkeypatch.setattr(worlds.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(worlds, "_release_graphs", lambda: None)
    monkeypatch.setattr(dist, "is_initialized", lambda: bool(opened))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: ended.append(True))
    with pytest.raises(ValueError, match="mine"), open_world(place, 2):
        raise ValueError("mine")
    assert bool(ended) is closed
    opened.clear()
    ended.clear()
    with open_world(place, 2):
        pass
    assert ended == [True]


def test_quartiles_lie_between_the_rounds() -> None:
    assert middle_half([3.0]) == (3.0, 3.0)
    assert middle_half([2.0, 1.0]) == (1.25, 1.75)
    assert middle_half([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 4.0)
