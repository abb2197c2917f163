"""Random programs through the eager lowering: cut and uncut compute the same, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import event, given
from torch import nn

import domino_compile
from tests.profiles import examples
from tests.property.programs import Program, run
from tests.property.steps import programs

TOLERANCE = 1e-10


def domino(slices: int, **options: object) -> Callable[[nn.Module], Callable[..., Any]]:
    settings = {"lowering": "eager", "slices": slices, "check_ranks": False, **options}

    def wrap(module: nn.Module) -> Callable[..., Any]:
        return torch.compile(module, backend="domino", options=settings, fullgraph=True)

    return wrap


def check(program: Program) -> str:
    """Cut against uncut; what became of the graph."""
    torch._dynamo.reset()
    domino_compile.reset_reports()
    expected = run(program)
    errors = run(program, domino(program.slices)).errors(expected)
    wrong = {name: error for name, error in errors.items() if not error < TOLERANCE}
    assert not wrong, f"{wrong}\n{program}"
    return domino_compile.reports()[-1].status


@examples(120)
@given(programs())
def test_cut_program_computes_what_the_uncut_one_does(program: Program) -> None:
    status = check(program)
    event(f"status: {status}")
    for feature in sorted(program.features):
        event(f"feature: {feature}")
