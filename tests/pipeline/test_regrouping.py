"""Why a program whose ranks divide one sequence is not cut, also with its tokens exchanged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from domino_compile.options import Options
from domino_compile.pipeline.contract import Lowering
from domino_compile.pipeline.hints import Hints
from domino_compile.pipeline.pipeline import Pipeline
from domino_compile.report import CompileReport
from tests.rules.capturing import capture, fake_group
from tests.rules.test_dealt import RANKS, Gather, H, Scatter, block, pinned
from tests.sequence_block import block as block_with

HELD = 4
WEIGHTS = ((H,), (H, 3 * 8), (8, H), (H, 6), (6, H))


def plain(x: Any, *weights: Any) -> Any:
    return block(x, *weights, dim=1)


def drops_input(x: Any, *weights: Any) -> Any:
    return block(F.dropout(x, 0.3), *weights, dim=1)


def drops_branches(x: Any, *weights: Any) -> Any:
    def scatter(t: Any) -> Any:
        return F.dropout(Scatter.apply(t, 1), 0.3)

    return block_with(x, *weights, lambda t: Gather.apply(t, 1), scatter, 1)


def drops_result(x: Any, *weights: Any) -> Any:
    return F.dropout(block(x, *weights, dim=1), 0.3)


def pins_result(x: Any, *weights: Any) -> Any:
    return pinned(block(x, *weights, dim=1))


def piece_drops_input(whole: Any, *weights: Any) -> Any:
    own = F.dropout(whole.chunk(RANKS, 1)[0], 0.3)
    return Gather.apply(block(own, *weights, dim=1), 1).square().sum()


def reported(step: Any, tokens: int = HELD, **options: Any) -> CompileReport:
    fake_group()
    generator = torch.Generator().manual_seed(0)
    given = [
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((1, tokens, H), *WEIGHTS)
    ]
    graph = capture(step, *given).graph
    chosen = Options.parse({"lowering": "eager", "check_ranks": False, "guard": "off", **options})
    report = CompileReport(0, chosen.describe())
    hints = Hints(parameters=frozenset(range(1, len(given))))
    Pipeline(report, chosen, hints, Lowering()).run_joint(graph)
    return report


@pytest.mark.parametrize("slices", [2, "auto"])
@pytest.mark.parametrize(
    ("step", "tokens"),
    [
        (drops_input, HELD),
        (drops_branches, HELD),
        (drops_result, HELD),
        (piece_drops_input, RANKS * HELD),
    ],
)
def test_dropout_on_a_ranks_tokens_is_refused_by_name(
    step: Any, tokens: int, slices: int | str
) -> None:
    report = reported(step, tokens, slices=slices)
    assert report.status != "sliced"
    assert report.reason.startswith("with tokens exchanged between ranks, ")
    assert "F.dropout(" in report.reason, report.reason
    assert "its random numbers are drawn" in report.reason
    assert "primals" not in report.advice  # no axis that is not the tokens is advised


def test_what_else_pins_a_ranks_tokens_is_named() -> None:
    report = reported(pins_result, slices=2)
    assert report.status != "sliced"
    assert "torch.arange(" in report.reason and "combines tokens" in report.reason


def test_an_exchange_that_does_not_pay_is_named_with_its_prediction() -> None:
    assert reported(plain, slices=2).status == "sliced"
    report = reported(plain)
    assert report.status != "sliced" and report.code == "margin"
    assert report.reason.startswith("the best cut with tokens exchanged between ranks (")
    assert report.advice == "options={'slices': 2} cuts regardless"
