"""Operations that couple batch rows: joined around, with the reason, and right numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from domino_compile.analysis import CutPlan
from tests.rules.capturing import Captured, capture, fake_group, largest_error
from tests.rules.models import GPT, VOCAB, B, D, S, Style


@pytest.fixture(autouse=True, scope="module")
def _set_up() -> Any:
    fake_group()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


class Coupled(GPT):
    """A GPT whose blocks couple the rows of the batch between them."""

    def __init__(self, couple: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__(Style(layers=1))
        self.couple = couple

    def forward(self, tokens: Any, targets: Any, mask: Any = None) -> torch.Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(S))
        for block in self.blocks:
            x = self.couple(block(x, mask))
        return self.loss(self.head(self.norm(x)), targets)


def batch_norm() -> Any:
    """Statistics over all tokens."""
    norm = nn.BatchNorm1d(D)
    return lambda x: norm(x.transpose(1, 2)).transpose(1, 2)


def most_important(x: torch.Tensor) -> torch.Tensor:
    """The 5 tokens of the whole batch with the largest first entry, added to all."""
    chosen = x.flatten(0, 1)[:, 0].topk(5).indices
    return x + x.flatten(0, 1)[chosen].mean(0)


def sorted_tokens(x: torch.Tensor) -> torch.Tensor:
    """All tokens in the order of their first entry."""
    rows = x.flatten(0, 1)
    return rows[rows[:, 0].argsort()].view(x.shape)


def neighbour(x: torch.Tensor) -> torch.Tensor:
    """Each row gets the next row of the batch."""
    return x + x.roll(1, 0)


def halves(x: torch.Tensor) -> torch.Tensor:
    """The two halves of the batch change places."""
    a, b = x.chunk(2)
    return torch.cat((b, a))


def first_row(x: torch.Tensor) -> torch.Tensor:
    """The first row of the batch, added to all."""
    return x + x[0]


def written(x: torch.Tensor) -> torch.Tensor:
    """One row of the batch is overwritten."""
    x = x.clone()
    x[1] = 0.5
    return x


CONV = torch.linspace(-1, 1, D * D * 3, dtype=torch.float64).view(D, D, 3)
COUPLINGS: dict[str, tuple[Callable[[], Any], str]] = {
    "batch norm": (batch_norm, "reduces over the cut dimension"),
    "mean over the batch": (lambda: lambda x: x - x.mean(0, keepdim=True), ""),
    "variance over the batch": (lambda: lambda x: x / (1 + x.var(0)), "reduces over the cut"),
    "largest of the batch": (lambda: lambda x: x / (1 + x.amax(0)), ""),
    "softmax over the batch": (lambda: lambda x: x * x.softmax(0), ""),
    "cumsum over the batch": (lambda: lambda x: x.cumsum(0) / B, "along the cut dimension"),
    "topk over tokens": (lambda: most_important, "along the cut dimension"),
    "sort over tokens": (lambda: sorted_tokens, "along the cut dimension"),
    "roll over the batch": (lambda: neighbour, "indexes the cut dimension"),
    "halves of the batch": (lambda: halves, "splits the cut axis"),
    "one row for all": (lambda: first_row, "one row of the cut dimension"),
    "one row written": (lambda: written, "one row of the cut dimension"),
    "batch by batch": (lambda: lambda x: x + (x @ x.mT).transpose(0, 1).sum() * 1e-3, ""),
    "flipped": (lambda: lambda x: x + x.flip(0), "along the cut dimension"),
    "strided": (lambda: lambda x: x + x[::2].sum(0), "a slice of the cut dimension"),
    "convolution": (
        lambda: lambda x: F.conv1d(x.transpose(1, 2), CONV, padding=1).transpose(1, 2) / D,
        "no axis rule",
    ),
}


@pytest.mark.parametrize("name", COUPLINGS)
def test_joined_around(name: str) -> None:
    make, reason = COUPLINGS[name]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCAB, (B, S), generator=generator)
    captured = capture(Coupled(make()), tokens, tokens.flip(0))
    plan = captured.plan(3, named=True)
    assert isinstance(plan, CutPlan), plan
    reasons = [r.reason for r in plan.analysis.refusals.values()]
    assert not reason or any(reason in r for r in reasons), reasons
    assert plan.analysis.sliced_collectives()
    same_numbers(captured, plan)


def same_numbers(captured: Captured, plan: CutPlan) -> None:
    """The sliced graph computes what the whole one does."""
    want = captured.run(captured.graph)
    got = captured.run(captured.sliced(plan))
    assert largest_error(want, got) < 1e-10
