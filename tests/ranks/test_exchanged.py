"""One long sequence whose tokens the ranks divide: tokens are exchanged, then cut."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks.conftest import Pools

pytestmark = pytest.mark.xdist_group("ranks")


def compare(ranks: list[dict[str, Any]], limit: float = 1e-10) -> None:
    """Gradients that each rank has a summand of are equal in the sum, everything else is."""
    for name, first in ranks[0]["uncut"].items():
        pairs = [(rank["uncut"][name], rank["cut"][name]) for rank in ranks]
        if first.ndim == 1:
            sums = zip(*pairs, strict=True)
            pairs = [tuple(torch.stack(values).sum(0) for values in sums)]  # type: ignore[misc]
        for uncut, cut in pairs:
            error = (cut - uncut).norm() / uncut.norm()
            assert error < limit, f"{name}: {error}"


@pytest.mark.parametrize("granularity", ["whole", "block"])
@pytest.mark.parametrize("style", ["sp", "megatron-sp"])
def test_a_batch_of_one_is_cut_into_tokens(pools: Pools, style: str, granularity: str) -> None:
    options = {"lowering": "eager", "slices": 2, "verify": "strict", "guard": "off"}
    ranks = pools[2].run("tests.ranks.checks:exchanged", style, granularity, options)
    compare(ranks)
    for rank in ranks:  # the end of a model is a program of its own, which has no attention
        cut = [report for report in rank["reports"] if report.status == "sliced"]
        assert any(report.tokens for report in cut), [r.status for r in rank["reports"]]


@pytest.mark.slow
def test_gathered_tokens_stay_as_they_arrive(pools: Pools, tmp_path: Path) -> None:
    options = {"slices": 2, "verify": "strict", "guard": "off", "dump_dir": str(tmp_path)}
    ranks = pools[2].run("tests.ranks.checks:exchanged", "sp", "whole", options, 4)
    compare(ranks, 1e-6)  # the loss is float32, and Inductor sums it in another order
    assert len(list(tmp_path.glob("rank_*/*/joint/08.relayout.after.py"))) == 2
    assert not list(tmp_path.glob("rank_*/*/joint/*left_out*"))


def test_slices_that_end_within_a_ranks_tokens_are_exchanged(pools: Pools) -> None:
    options = {"lowering": "eager", "slices": 3, "verify": "strict", "guard": "off"}
    ranks = pools[2].run("tests.ranks.checks:exchanged", "sp", "whole", options)
    compare(ranks)
    for rank in ranks:
        (report,) = [report for report in rank["reports"] if report.status == "sliced"]
        events = [e for schedule in report.schedules for e in schedule.events]
        assert sum(e.startswith("launch all_to_all_tokens") for e in events) == 2, events


def test_tokens_reach_their_ranks_and_return(pools: Pools) -> None:
    for answers in pools[4].run("tests.ranks.checks:dealt_tokens"):
        assert answers == []


def test_an_exchange_that_does_not_pay_is_undone(pools: Pools) -> None:
    options = {"lowering": "eager", "margin": 0.9, "verify": "strict"}
    ranks = pools[2].run("tests.ranks.checks:exchanged", "sp", "whole", options)
    compare(ranks)
    for report in (report for rank in ranks for report in rank["reports"] if report.collectives):
        assert report.status in ("reordered", "inductor")
        gathers = [c for c in report.collectives if c.kind == "all_gather_into_tensor"]
        for schedule in report.schedules:
            found = [e for e in schedule.events if e.startswith("launch all_gather")]
            assert len(found) == sum(gather.phase == schedule.phase for gather in gathers)
