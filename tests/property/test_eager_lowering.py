"""Random programs through the eager lowering: cut and uncut compute the same, in float64."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st
from torch import nn

import domino_compile
from tests.profiles import examples
from tests.property.known import SLICED
from tests.property.programs import Program, Result, parse, run
from tests.property.steps import programs

TOLERANCE = 1e-10
#: Without hypothesis's explanation of a failure, which takes many more examples.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)


def domino(slices: object, **options: object) -> Callable[[nn.Module], Callable[..., Any]]:
    chosen = {"lowering": "eager", "slices": slices, "check_ranks": False, **options}

    def wrap(module: nn.Module) -> Callable[..., Any]:
        torch._dynamo.reset()
        return torch.compile(module, backend="domino", options=chosen, fullgraph=True)

    return wrap


def check(program: Program, expected: Result, **options: object) -> str:
    """Cut against uncut; what became of the graph."""
    errors = run(program, domino(**{"slices": program.slices, **options})).errors(expected)
    wrong = {name: error for name, error in errors.items() if not error < TOLERANCE}
    assert not wrong, f"{wrong}\n{program}"
    return domino_compile.reports()[-1].status


@pytest.fixture(scope="module")
def seen() -> Iterator[Counter[str]]:
    """What became of the graphs of the property tests of this file."""
    yield Counter()


@settings(examples(60), phases=PHASES)
@given(program=programs())
def test_cut_program_computes_what_the_uncut_one_does(seen: Counter[str], program: Program) -> None:
    status = check(program, run(program))
    seen[status] += 1
    event(f"status: {status}")
    for feature in sorted(program.features):
        event(f"feature: {feature}")


def test_most_programs_were_cut(seen: Counter[str]) -> None:
    if sum(seen.values()) < 40:
        pytest.skip("needs the programs of the test above")
    assert seen["sliced"] > 0.6 * sum(seen.values()), seen


@settings(examples(12), phases=PHASES)
@given(program=programs(random=True))
def test_cut_program_draws_what_the_uncut_one_does(program: Program) -> None:
    # Eager mode draws other numbers than captured programs: the reference is captured as well.
    uncut = domino(1, disable_passes=("normalise", "slice", "schedule"))
    event(check(program, run(program, uncut)))


@settings(examples(20), phases=PHASES)
@given(program=programs(), rows=st.sampled_from([1, 2, 3]), columns=st.sampled_from([2, 3]))
def test_program_cut_by_columns_computes_what_the_uncut_one_does(
    program: Program, rows: int, columns: int
) -> None:
    check(program, run(program), slices=rows, columns=columns)
    report = domino_compile.reports()[-1]
    event(f"rows: {bool(report.slices)}, columns: {bool(report.columns)}")


@settings(examples(6), phases=PHASES)
@given(program=programs(random=True))
def test_program_cut_by_columns_draws_what_the_uncut_one_does(program: Program) -> None:
    uncut = domino(1, disable_passes=("normalise", "slice", "schedule"))
    check(program, run(program, uncut), slices=1, columns=2)


@pytest.mark.parametrize("name", SLICED)
def test_known_program_is_cut(name: str) -> None:
    program = parse(SLICED[name])
    assert check(program, run(program)) == "sliced"
