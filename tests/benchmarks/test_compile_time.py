"""The stages that are timed are those that a compile goes through."""

import pytest

from benchmarks.compile_time import measure_passes
from tests.emitted.harness import fake_world

pytestmark = pytest.mark.xdist_group("emitted")


def test_every_stage_of_a_compile_is_timed() -> None:
    fake_world()
    spent = measure_passes(1, "cpu")
    never = ("garbage", "regroup", "exchange")
    assert all(taken > 0 for stage, taken in spent.items() if stage not in never), spent
    parts = [taken for stage, taken in spent.items() if stage not in ("layers", "all")]
    assert sum(parts) == pytest.approx(spent["all"])
