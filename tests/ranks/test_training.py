"""Every way to write tensor parallelism trains as it does uncut, and ranks agree."""

import itertools

import pytest
import torch

from domino_compile import CompileReport
from tests.ranks.checks import Training
from tests.ranks.conftest import Pools, Train
from tests.ranks.models import FORMS

pytestmark = pytest.mark.xdist_group("ranks")

#: Relative error after three steps of Adam, which divides by the gradient's size.
TOLERANCE = {"float64": 1e-10, "float32": 2e-4}
#: Compiled in-place all-reduces have a gradient that eager ones lack.
REFERENCE = {"in_place": "aot_eager"}
#: Every form on two ranks and on four, but for the one that needs four.
CASES = [
    (world, form, slices)
    for (world, slices), form in itertools.product(((2, 3), (4, 2)), FORMS)
    if world == 4 or form != "two_groups"
]


def name_of(case: object) -> str:
    return str(case)


def assert_same(cut: Training, uncut: Training, dtype: str) -> None:
    tolerance = TOLERANCE[dtype]
    assert cut.losses == pytest.approx(uncut.losses, rel=tolerance)
    for name, weight in uncut.weights.items():
        error = (cut.weights[name] - weight).norm() / weight.norm().clamp(min=1e-3)
        assert error <= tolerance, f"{name}: relative error {error:.2e}"


def assert_ranks_agree(ranks: list[Training]) -> None:
    """The same collectives in the same order, and weights that are equal on ranks still are."""
    orders = [[report.collective_order() for report in rank.reports] for rank in ranks]
    assert all(order == orders[0] for order in orders)
    assert any(len(wires) > 1 for wires in orders[0][0].values())


def assert_replicas_equal(ranks: list[Training], uncut: list[Training]) -> None:
    for name, first in ranks[0].weights.items():
        for rank, reference in zip(ranks, uncut, strict=True):
            if torch.equal(reference.weights[name], uncut[0].weights[name]):
                assert torch.equal(rank.weights[name], first), name


def only(reports: list[CompileReport]) -> CompileReport:
    (report,) = reports
    return report


@pytest.mark.parametrize(("world", "form", "slices"), CASES)
def test_training(train: Train, world: int, form: str, slices: int) -> None:
    options = {"lowering": "eager", "slices": slices}
    cut = train(world, form, "float64", "domino", options)
    reference = train(world, form, "float64", REFERENCE.get(form, "none"))
    for mine, other in zip(cut, reference, strict=True):
        assert_same(mine, other, "float64")
        report = only(mine.reports)
        assert report.status == "sliced"
        assert len(report.slices) == slices
        assert not report.joins
    assert_ranks_agree(cut)
    assert_replicas_equal(cut, reference)


@pytest.mark.parametrize(
    ("form", "slices"), [(form, 1 + i % 2) for i, form in enumerate(sorted(FORMS))]
)
def test_training_cut_by_columns(train: Train, form: str, slices: int) -> None:
    options = {"lowering": "eager", "slices": slices, "columns": 2}
    cut = train(2, form, "float64", "domino", options)
    reference = train(2, form, "float64", REFERENCE.get(form, "none"))
    for mine, other in zip(cut, reference, strict=True):
        assert_same(mine, other, "float64")
        report = only(mine.reports)
        assert len(report.columns) == 2 and len(report.slices) == (slices if slices > 1 else 0)
    assert_ranks_agree(cut)
    assert_replicas_equal(cut, reference)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "slices"), [("megatron", 3), ("sequence_parallel_1", 2)])
def test_training_through_inductor(train: Train, form: str, slices: int) -> None:
    cut = train(2, form, "float32", "domino", {"slices": slices})
    uncut = train(2, form, "float32", "none")
    for mine, other in zip(cut, uncut, strict=True):
        assert_same(mine, other, "float32")
    assert_ranks_agree(cut)
    assert_replicas_equal(cut, uncut)


ROWS = (6, 7, 9, 8)


@pytest.mark.parametrize(("lowering", "slices"), [("eager", 3), ("inductor", 2)])
def test_one_program_serves_every_batch_size(train: Train, lowering: str, slices: int) -> None:
    options = {"lowering": lowering, "slices": slices}
    cut = train(2, "megatron", "float64", "domino", options, ROWS, {})
    for mine, other in zip(cut, train(2, "megatron", "float64", "none", None, ROWS), strict=True):
        assert_same(mine, other, "float64")
        assert len(only(mine.reports).slices) == slices


def test_a_batch_too_small_for_the_slices_gets_a_program_of_its_own(train: Train) -> None:
    rows = (6, 3, 2)
    options = {"lowering": "eager", "slices": 2}
    cut = train(2, "megatron", "float64", "domino", options, rows, {})
    for mine, other in zip(cut, train(2, "megatron", "float64", "none", None, rows), strict=True):
        assert_same(mine, other, "float64")
        assert [report.status for report in mine.reports] == ["sliced", "reordered"]


def test_bounds_of_a_dynamic_batch_forbid_guards(train: Train) -> None:
    options, bounds = {"lowering": "eager"}, {"min": 2, "max": 64}
    cut = train(2, "megatron", "float64", "domino", options, ROWS, bounds)
    for mine, other in zip(cut, train(2, "megatron", "float64", "none", None, ROWS), strict=True):
        assert_same(mine, other, "float64")
        assert only(mine.reports).status == "reordered"
        assert "bounds" in only(mine.reports).reason


@pytest.mark.parametrize("form", ["funcol", "dtensor"])
def test_inference(pools: Pools, form: str) -> None:
    options = {"lowering": "eager", "slices": 2}
    for rank in pools[2].run("tests.ranks.checks:prefill", form, options):
        assert rank["cut"] == pytest.approx(rank["uncut"], rel=1e-12)
        assert only(rank["reports"]).status == "sliced"


def test_graph_breaks(pools: Pools) -> None:
    for rank in pools[2].run("tests.ranks.checks:train_with_breaks", "break"):
        assert_same(rank["cut"], rank["uncut"], "float64")
        assert len(rank["cut"].reports) > 1


def test_an_asynchronous_all_reduce_breaks_no_graph(pools: Pools) -> None:
    for rank in pools[2].run("tests.ranks.checks:train_with_breaks", "async"):
        assert_same(rank["cut"], rank["uncut"], "float64")
        assert only(rank["cut"].reports).status == "sliced"
