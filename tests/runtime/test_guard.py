"""``guard="measure"``: two programs take turns, the faster stays; ranks agree."""

import gc
import json
import logging
import time
import weakref
from typing import Any

import pytest
import torch

import domino_compile
from domino_compile.report import CompileReport
from domino_compile.runtime import guard
from domino_compile.runtime.guard import TURNS, Measuring, Plan
from tests.emitted.harness import SEQ, VOCAB, Model, fake_world
from tests.paths import FAST_LINK


class Program:
    """Takes a while, and counts its calls."""

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self.seconds, self.calls = name, seconds, 0

    def __call__(self, x: int) -> str:
        self.calls += 1
        time.sleep(self.seconds)
        return f"{self.name} {x}"


@pytest.mark.parametrize(("planned", "uncut", "kept"), [(0, 0.004, "planned"), (0.004, 0, "uncut")])
def test_the_faster_program_stays(
    planned: float, uncut: float, kept: str, caplog: pytest.LogCaptureFixture
) -> None:
    programs = [Program("planned", planned), Program("uncut", uncut)]
    report = CompileReport(0, status="sliced", slices=["2", "2"])
    told: list[str] = []
    measuring = Measuring(*programs, report, lambda: told.append(report.status), 1.0, Plan("", {}))
    losing = weakref.ref(programs[kept == "planned"])
    with caplog.at_level(logging.INFO, logger="domino_compile"):
        said = [measuring(i) for i in range(len(TURNS))]
    assert said == [f"{('planned', 'uncut')[turn]} {i}" for i, turn in enumerate(TURNS)]
    assert report.measured is None and not told
    assert [program.calls for program in programs] == [len(TURNS) // 2] * 2
    del programs
    with caplog.at_level(logging.INFO, logger="domino_compile"):
        assert [measuring(7) for _ in range(2)] == [f"{kept} 7"] * 2
    assert len(measuring.programs) == 1 and losing() is None
    assert report.measured is not None and report.measured.kept == kept
    assert told == [{"planned": "sliced", "uncut": "inductor"}[kept]]
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == 1 and "measured" in lines[0] and "when cut" in lines[0]
    again = CompileReport.from_dict(json.loads(report.to_json()))
    assert again == report


def step(model: Model, program: Any, tokens: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    loss = program(tokens, tokens)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("dynamic", [False, True])
def test_numbers_are_the_same_while_the_programs_take_turns(dynamic: bool) -> None:
    fake_world()
    torch._dynamo.reset()
    domino_compile.reset_reports()
    torch.manual_seed(0)
    model = Model(1, dropout=0.0).double()
    link = FAST_LINK
    options = {"lowering": "eager", "guard": "measure", "slices": 2, "link": link}
    program = torch.compile(model, backend="domino", options=options, dynamic=dynamic)
    for _ in range(len(TURNS) + 2):
        tokens = torch.randint(0, VOCAB, (4, SEQ))
        expected = step(model, model, tokens)
        for found, value in zip(step(model, program, tokens), expected, strict=True):
            torch.testing.assert_close(found, value, rtol=0, atol=1e-10)
    (report,) = domino_compile.reports()
    assert report.measured is not None and report.measured.rounds == guard.ROUNDS
    assert report.status == {"planned": "sliced", "uncut": "inductor"}[report.measured.kept]


def test_through_inductor() -> None:
    fake_world()
    torch._dynamo.reset()
    domino_compile.reset_reports()
    torch.manual_seed(0)
    model = Model(1, dropout=0.0)
    tokens = torch.randint(0, VOCAB, (4, SEQ))
    expected = step(model, model, tokens)
    options = {"guard": "measure", "slices": 2}
    program = torch.compile(model, backend="domino", options=options)
    for _ in range(len(TURNS) + 2):
        for found, value in zip(step(model, program, tokens), expected, strict=True):
            torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)
    (report,) = domino_compile.reports()
    assert report.measured is not None
    gc.collect()
