"""``guard="measure"`` on real ranks: all keep the same program, and train as they do uncut."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from domino_compile.backend import domino
from domino_compile.report import CompileReport
from domino_compile.runtime.guard import TURNS, agreed
from tests.ranks.checks import Training, batches, fit
from tests.ranks.conftest import Pools, Train
from tests.ranks.models import build
from tests.ranks.test_training import only
from tests.runtime.test_watch import collective

pytestmark = pytest.mark.xdist_group("ranks")

STEPS = len(TURNS) + 2


@pytest.mark.parametrize(
    ("world", "form"), [(2, "megatron"), (2, "dtensor"), (4, "funcol"), (4, "two_groups")]
)
def test_ranks_keep_the_same_program(train: Train, world: int, form: str) -> None:
    options = {"lowering": "eager", "slices": 2, "guard": "measure"}
    measured = train(world, form, "float64", "domino", options, (5,) * STEPS)
    reference = train(world, form, "float64", "none", None, (5,) * STEPS)
    outcomes = [only(rank.reports).measured for rank in measured]
    assert outcomes[0] is not None and all(outcome == outcomes[0] for outcome in outcomes)
    for mine, other in zip(measured, reference, strict=True):
        assert mine.losses == pytest.approx(other.losses, rel=1e-9)
        for name, weight in other.weights.items():
            error = (mine.weights[name] - weight).norm() / weight.norm().clamp(min=1e-3)
            assert error <= 1e-8, name  # Adam divides by the size of gradients, step after step


def compile_again_on_one_rank(rank: int, world: int) -> Training:
    """Rank 1 compiles again after the measurement, as if a guard of Dynamo had failed there."""
    model = build("dtensor", torch.float64)
    options = {"lowering": "eager", "slices": 2, "guard": "measure", "check_timeout_s": 20.0}
    compiled = torch.compile(model, backend=domino, options=options)
    steps = 0

    def step(*batch: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == STEPS and rank == 1:
            torch._dynamo.reset()
        return compiled(*batch)  # type: ignore[no-any-return]

    return fit(model, step, batches((5,) * (STEPS + 2)))


def test_a_rank_that_compiles_again_alone_keeps_the_program_of_all(pools: Pools) -> None:
    first, second = pools[2].run("tests.ranks.test_guard:compile_again_on_one_rank", timeout=900)
    assert first.losses == second.losses
    (kept,) = [report.measured for report in first.reports]
    assert kept is not None and [report.measured for report in second.reports] == [kept] * 2


def test_times_are_found_by_plan_and_not_by_their_number(pools: Pools) -> None:
    """Rank 0 has measured plan A first, rank 1 plan B; each plan's times are compared."""
    name = "tests.ranks.test_guard:measure_in_another_order"
    assert pools[2].run(name, timeout=240) == [{"A": [2.0], "B": [20.0]}] * 2


def measure_in_another_order(rank: int, world: int) -> dict[str, list[float]]:
    """Rank 1 is twice as slow as rank 0."""
    group = dist.group.WORLD.group_name  # type: ignore[union-attr]
    report = CompileReport(0, collectives=[collective(dist.group.WORLD)])
    times = {"A": 1.0 + rank, "B": 10.0 * (1 + rank)}
    order = ["A", "B"] if rank == 0 else ["B", "A"]
    asked = {}
    with ThreadPoolExecutor(2) as threads:  # so that neither waits for the other plan's ranks
        for plan in order:
            asked[plan] = threads.submit(agreed, [times[plan]], report, 30.0, {group: plan})
        return {plan: asked[plan].result() for plan in sorted(order)}


def test_ranks_choose_the_same_plan(train: Train) -> None:
    options = {"lowering": "eager", "guard": "off", "memory_cap": 10}
    reports = [only(rank.reports) for rank in train(2, "dtensor", "float64", "domino", options)]
    assert reports[0].status == "sliced" and len(reports[0].candidates) > 2
    assert reports[0].candidates == reports[1].candidates
    assert reports[0].digest() == reports[1].digest()
    other = {**options, "slices": 1}
    reordered = only(train(2, "dtensor", "float64", "domino", other)[0].reports)
    assert reordered.digest() != reports[0].digest()
