"""The report names every collective: kind, group, size, line of the model, and what was done."""

from pathlib import Path
from typing import NamedTuple

import pytest

from domino_compile.report import CollectiveReport
from tests.ranks import models
from tests.ranks.conftest import Pools, Train
from tests.ranks.models import LENGTH, WIDTH

pytestmark = pytest.mark.xdist_group("ranks")

OPTIONS = {"lowering": "eager", "slices": 2}
ROWS = 5
BYTES = ROWS * LENGTH * WIDTH * 8  # of activations in float64
LINES = Path(models.__file__).read_text().splitlines()


class Found(NamedTuple):
    """A collective as a report should show it."""

    phase: str
    kind: str
    tag: str
    action: str = "sliced"
    payload: int = BYTES


def forward_and_backward(forward: str, backward: str) -> list[Found]:
    """Two layers with an all-reduce each, forward and backward."""
    there, back = Found("forward", "all_reduce", forward), Found("backward", "all_reduce", backward)
    return [there, there, back, back]


GATHER, SCATTER = "all_gather_into_tensor", "reduce_scatter_tensor"
SEQUENCE_PARALLEL = [
    Found("forward", SCATTER, "embedding"),
    Found("forward", GATHER, "attention"),
    Found("forward", SCATTER, "out"),
    Found("forward", GATHER, "mlp"),
    Found("forward", SCATTER, "down"),
    Found("forward", GATHER, "head"),
    Found("forward", GATHER, "head", payload=BYTES * models.VOCABULARY // WIDTH),
    Found("backward", SCATTER, "head"),
    Found("backward", GATHER, "down"),
    Found("backward", SCATTER, "mlp"),
    Found("backward", GATHER, "out"),
    Found("backward", SCATTER, "attention"),
    Found("backward", GATHER, "embedding"),
]
TENSOR = [Found(phase, "all_reduce", "tensor parallel") for phase in ("forward", "backward")]
DATA = Found("backward", "all_reduce", "data parallel", "left alone", 8 * 2 * WIDTH * WIDTH)
EXPECTED: dict[str, list[Found]] = {
    "funcol": forward_and_backward("forward", "forward"),
    "in_place": forward_and_backward("in place", "in place"),
    "megatron": forward_and_backward("g", "f"),
    "two_groups": [TENSOR[0], TENSOR[0], TENSOR[1], DATA, DATA, TENSOR[1], DATA, DATA],
    "dtensor": [
        Found("forward", "all_reduce", "out"),
        Found("forward", "all_reduce", "down"),
        Found("backward", "all_reduce", "up"),
        *[Found("backward", "all_reduce", "q k v", "merged")] * 3,
    ],
    "sequence_parallel_0": SEQUENCE_PARALLEL,
    "sequence_parallel_1": SEQUENCE_PARALLEL,
}


def as_found(collective: CollectiveReport) -> Found:
    """What a report shows, its line replaced by the line's tag."""
    place, _ = collective.source.split(", in ", 1)
    file, number = place.rsplit(":", 1)
    assert Path(file).samefile(models.__file__)
    tag = LINES[int(number) - 1].partition("  # <")[2].rstrip(">")
    kind, action = collective.kind, collective.action
    return Found(collective.phase, kind, tag, action, collective.bytes)


@pytest.mark.parametrize("form", EXPECTED)
def test_every_collective_is_reported(train: Train, form: str) -> None:
    world = 4 if form == "two_groups" else 2
    for rank in train(world, form, "float64", "domino", OPTIONS):
        (report,) = rank.reports
        assert [as_found(c) for c in report.collectives] == EXPECTED[form]
        assert all(c.ranks == 2 for c in report.collectives)
        assert report.axis == ["tokens[0]", "following[0]"]
        assert report.slices == ["3", "2"]


def test_data_parallel_all_reduces_are_said_to_be_left_alone(train: Train) -> None:
    for rank in train(4, "two_groups", "float64", "domino", OPTIONS):
        (report,) = rank.reports
        alone = [c for c in report.collectives if c.action == "left alone"]
        assert {c.reason for c in alone} == {
            "not tensor parallel: only an output (a gradient) depends on it"
        }
        (group,) = {c.group for c in alone}
        assert group not in {c.group for c in report.collectives if c.action == "sliced"}


def test_data_parallel_all_reduces_do_not_choose_the_axis(pools: Pools) -> None:
    for axis in pools[4].run("tests.ranks.checks:regression_axis"):
        assert axis == ["x[0]", "wanted[0]"]


def test_forms_are_all_covered() -> None:
    assert EXPECTED.keys() == models.FORMS.keys() - {"async", "break"}
