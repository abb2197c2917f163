"""``guard="measure"`` on real ranks: all keep the same program, and train as they do uncut."""

import pytest

from domino_compile.runtime.guard import TURNS
from tests.ranks.conftest import Train
from tests.ranks.test_training import only

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


def test_ranks_choose_the_same_plan(train: Train) -> None:
    options = {"lowering": "eager", "guard": "off", "memory_cap": 10}
    reports = [only(rank.reports) for rank in train(2, "dtensor", "float64", "domino", options)]
    assert reports[0].status == "sliced" and len(reports[0].candidates) > 2
    assert reports[0].candidates == reports[1].candidates
    assert reports[0].digest() == reports[1].digest()
    other = {**options, "slices": 1}
    reordered = only(train(2, "dtensor", "float64", "domino", other)[0].reports)
    assert reordered.digest() != reports[0].digest()
