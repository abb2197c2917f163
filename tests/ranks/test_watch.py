"""Two real ranks whose link changes while they train."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import domino_compile
from domino_compile.backend import domino
from domino_compile.runtime import watch
from tests.ranks.checks import Training, batches, fit
from tests.ranks.conftest import Pools, Train
from tests.ranks.models import build
from tests.ranks.test_training import assert_replicas_equal, assert_same

pytestmark = pytest.mark.xdist_group("ranks")


def train_on_a_changing_link(rank: int, world: int, steps: int) -> Training:
    """From the third probe on rank 1 finds the link four times as slow; rank 0 notices nothing."""
    table = domino_compile.links.load_link("demo-2").scaled_to(world)
    probes: list[float] = []

    def fastest_us(group: Any, nbytes: int, device: Any) -> float:
        slow = rank == 1 and len(probes) >= 2
        probes.append(table.time_us("all_reduce", nbytes) * (4.0 if slow else 1.0))
        return probes[-1]

    model = build("dtensor", torch.float32)
    options = {"slices": 2, "watch": 1, "link": "demo-2"}
    before, watch.fastest_us = watch.fastest_us, fastest_us
    try:
        compiled = torch.compile(model, backend=domino, options=options)
        return fit(model, compiled, batches((5,) * steps))
    finally:
        watch.fastest_us = before


@pytest.mark.slow
def test_both_ranks_plan_again_at_the_same_step(pools: Pools, train: Train) -> None:
    steps = 3 + watch.PROBES
    name = "tests.ranks.test_watch:train_on_a_changing_link"
    found = pools[2].run(name, steps, timeout=900)
    reference = train(2, "dtensor", "float32", "none", None, (5,) * steps)
    for mine, other in zip(found, reference, strict=True):
        assert [report.slower for report in mine.reports] == [1.0, 4.0]
        first, second = (report.schedules[0].wires[0].wire_us for report in mine.reports)
        assert second == pytest.approx(4 * first, rel=1e-3)
        assert_same(mine, other, "float32")
    orders = [[report.collective_order() for report in mine.reports] for mine in found]
    assert orders[0] == orders[1]
    assert_replicas_equal(found, reference)
