"""Benchmarks that are given the same file compile side by side and measure one at a time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from domino_compile.tools.bench import run as bench
from domino_compile.tools.bench.run import Plan
from domino_compile.tools.bench.variants import Variant
from domino_compile.tools.bench.workload import Workload
from domino_compile.tools.bench.world import Place


class World:
    """One rank."""

    def first_rank_only(self, action: Callable[[], None]) -> None:
        action()


class Bench:
    """Does nothing, and knows how many do it at once."""

    both_compile = threading.Barrier(2, timeout=10)
    measuring, most, told = 0, 0, ""

    def __init__(self, workload: Workload, plan: Plan, world: World, progress: Any) -> None:
        pass

    def empty(self, command: str) -> str:
        return command

    def tell(self, text: str, share: float = 0.0) -> None:
        Bench.told = text

    def compile(self, result: str) -> list[Any]:
        self.both_compile.wait()
        return []

    def measure(self, result: str, runners: list[Any]) -> None:
        Bench.measuring += 1
        Bench.most = max(Bench.most, Bench.measuring)
        time.sleep(0.05)
        Bench.measuring -= 1


@contextlib.contextmanager
def one_rank(place: Place, ranks: int) -> Iterator[World]:
    yield World()


def test_one_measures_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench, "Bench", Bench)
    monkeypatch.setattr(bench, "open_world", one_rank)
    workload = Workload("tiny-gpt", 1, 2, 8, 2)
    plan = Plan([Variant("inductor")], turn=tmp_path / "turn")
    results: list[Any] = []

    def run(name: str) -> None:
        place = Place("cpu", "demo-2")
        results.append(bench.run(workload, plan, place, name, lambda *_: None))

    threads = [threading.Thread(target=run, args=(name,), daemon=True) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(results) == ["a", "b"] and Bench.most == 1
    assert "waiting" in Bench.told
