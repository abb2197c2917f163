"""Ranks that planned different collectives get an error within seconds, never a hang."""

import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol

from domino_compile import _compat, backend
from domino_compile.backend import domino
from domino_compile.errors import RankMismatchError
from domino_compile.report import CollectiveReport, CompileReport
from domino_compile.runtime import rank_check as ranks
from tests.ranks.pool import Pool

pytestmark = pytest.mark.xdist_group("rank check")
ABSENT = {"absent": True}


def step(rank: int, world: int, case: list[dict[str, Any]]) -> str:
    """On a rank: one step with the rank's options, and what became of it."""
    if case[rank] == ABSENT:
        return "ABSENT"
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 8))

    def forward(x: torch.Tensor) -> torch.Tensor:
        h = funcol.all_reduce(layer(x), "sum", dist.group.WORLD)
        return layer[1](layer[0](h))

    options = {"lowering": "eager", **case[rank]}
    rates = options.pop("rates", "")
    try:
        with mock.patch.object(backend, "rates_identity", lambda: rates):
            compiled = torch.compile(forward, backend=domino, options=options)
            compiled(torch.randn(12, 8)).sum().backward()
    except RankMismatchError as error:
        return f"REFUSED {error}"
    return "RAN"


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(2) as pool:
        yield pool


def run(pool: Pool, case: list[dict[str, Any]]) -> list[str]:
    return pool.run("tests.runtime.test_rank_check:step", case)


def test_equal_plans_run(pool: Pool) -> None:
    assert run(pool, [{"slices": 2}, {"slices": 2}]) == ["RAN", "RAN"]


def test_different_plans_are_refused_on_every_rank(pool: Pool) -> None:
    outcomes = run(pool, [{"slices": 2}, {"slices": 3}])
    for own, outcome in enumerate(outcomes):
        assert outcome.startswith("REFUSED"), outcomes
        assert f"ranks {own} and {1 - own}" in outcome
        assert "slices=3" in outcome  # the option that differs is named
        assert "collective" in outcome


def test_different_rates_are_refused_even_if_collectives_are_the_same(pool: Pool) -> None:
    outcomes = run(pool, [{"slices": 2, "rates": "measured"}, {"slices": 2}])
    for outcome in outcomes:
        assert outcome.startswith("REFUSED") and "DOMINO_COMPILE_RATES differ" in outcome


def test_plans_of_a_group_that_is_made_anew_are_counted_anew() -> None:
    """Also if it has the same name: one of its ranks may be a new process."""
    entry = CollectiveReport("a", "all_reduce", "0", 2, 8, "", "forward", "sliced")
    report = CompileReport(0, collectives=[entry])
    for _ in range(2):
        group, alone = mock.Mock(), (dist.HashStore(), [0, 1], 0)
        for number in range(2):
            with (
                mock.patch.object(ranks.dist, "is_initialized", lambda: True),
                mock.patch.object(_compat, "shared_store", lambda _, alone=alone: alone),
                mock.patch.object(_compat, "group_named", lambda _, group=group: group),
                pytest.raises(RankMismatchError, match=f"has not compiled plan {number} of"),
            ):
                ranks.compare_ranks(report, "", 0.01)


def test_the_check_can_be_left_out(pool: Pool) -> None:
    assert run(pool, [{"check_ranks": False, "slices": 2}] * 2) == ["RAN", "RAN"]


def test_a_graph_that_only_one_rank_leaves_alone_is_refused(pool: Pool) -> None:
    began = time.monotonic()
    outcomes = run(pool, [{}, {"slices": 2}])
    assert all(outcome.startswith("REFUSED") for outcome in outcomes), outcomes
    assert time.monotonic() - began < 60


def test_a_rank_that_does_not_come_is_named(pool: Pool) -> None:
    outcomes = run(pool, [{"check_timeout_s": 2, "slices": 2}, ABSENT])
    assert outcomes[0].startswith("REFUSED")
    assert "rank 1 has not compiled" in outcomes[0]
    assert "check_timeout_s" in outcomes[0]
    pool.stop()  # the ranks have compared different numbers of plans
