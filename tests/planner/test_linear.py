"""The work of planning is linear in the layers of a model. It is counted; times decide nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import domino_compile
from domino_compile.planner import unfold
from domino_compile.planner.predict import _phases
from domino_compile.scheduling import UnitGraph, run_order, schedule_units
from tests.passes.costs import COSTS
from tests.planner.repeated import layers, planned

PACKAGE = str(Path(domino_compile.__file__).parent)
#: Some layers are added to a small model and to a larger one. They cost no more there but for the
#: logarithms of sorted lists; with quadratic work they would cost three times as much. They cost
#: less if fewer orders are tried for the larger model.
SMALL, LARGE, ADDED, TOLERANCE = 4, 16, 2, 0.3


def same_for_each_layer(work: Callable[[int], int]) -> None:
    """Check that layers that are added to a large model cost what they cost in a small one."""
    small, large = (work(count + ADDED) - work(count) for count in (SMALL, LARGE))
    assert 0 < large <= small * (1 + TOLERANCE)


def lines_run(function: Callable[[], Any]) -> int:
    """Return how many lines of this package a call runs."""
    count = 0

    def within(_frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return within

    def enter(frame: FrameType, _event: str, _arg: Any) -> Any:
        return within if frame.f_code.co_filename.startswith(PACKAGE) else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


class Counted(int):
    """A number that counts how often it is looked up or compared, also by sets and sorted lists."""

    looks = 0

    def __hash__(self) -> int:
        Counted.looks += 1
        return int.__hash__(self)

    def __lt__(self, other: int) -> bool:
        Counted.looks += 1
        return int.__lt__(self, other)

    def __eq__(self, other: object) -> bool:
        Counted.looks += 1
        return int.__eq__(self, other)


def counted(graph: UnitGraph) -> UnitGraph:
    """The same units, with numbers that count."""

    def numbers(found: Iterable[int]) -> set[int]:
        return {Counted(i) for i in found}

    units = [
        replace(
            unit,
            index=Counted(unit.index),
            after=numbers(unit.after),
            after_wire=numbers(unit.after_wire),
        )
        for unit in graph.units
    ]
    inputs = [(size, numbers(users)) for size, users in graph.input_uses]
    return UnitGraph(units, inputs, numbers(graph.kept))


@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_lines_that_planning_runs_for_a_layer(checkpointed: bool) -> None:
    def lines(count: int) -> int:
        graph = layers(count, checkpointed)
        return lines_run(lambda: planned(graph))

    same_for_each_layer(lines)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("cap", [0.0, 10.0])
def test_the_units_that_planning_looks_at_for_a_layer(checkpointed: bool, cap: float) -> None:
    """Whether memory is short or not."""

    def looks(count: int) -> int:
        program = unfold(layers(count, checkpointed))
        found = counted(program.units(COSTS))
        Counted.looks = 0
        for phase in _phases(found.units, found.kept, program.is_backward):
            phase = counted(phase)
            schedule_units(phase, run_order(phase).peak_bytes * cap)
        return Counted.looks

    same_for_each_layer(looks)
