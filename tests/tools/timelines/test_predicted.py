"""Timelines of a compiled model as they are predicted, and timelines as data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import domino_compile
from domino_compile import explain, fake_ranks, reports
from domino_compile.cost.intervals import union_us
from domino_compile.report import CompileReport
from domino_compile.tools.timelines import Timeline, predicted
from tests.emitted.harness import VOCAB, Model
from tests.paths import FAST_LINK


@pytest.fixture(scope="module")
def compiled() -> Iterator[list[CompileReport]]:
    torch._dynamo.reset()
    domino_compile.reset_reports()
    with fake_ranks(4):
        tokens = torch.randint(0, VOCAB, (4, 8))
        explain(Model(2), tokens, tokens, options={"link": FAST_LINK, "slices": 2})
    yield reports()
    domino_compile.reset_reports()


def test_before_and_after_are_the_same_work(compiled: list[CompileReport]) -> None:
    before, after = predicted(compiled)
    assert not (before.measured or after.measured or before.emulated)
    assert len({s.collective for s in before.spans if s.lane == "wire"}) == 8
    for timeline in (before, after):
        found = {s.collective for s in timeline.spans if s.lane == "wire"}
        assert found == {f"0:{c.name}" for c in compiled[0].collectives}
        assert {s.phase for s in timeline.spans if s.lane == "wire"} == {"forward", "backward"}
    assert {s.slice for s in after.spans if s.lane == "wire"} == {0, 1}
    assert {s.slice for s in before.spans} == {None}
    assert any("harness.py" in s.source or "blocks" in s.source for s in before.spans)


def test_totals_are_those_of_the_reports(compiled: list[CompileReport]) -> None:
    before, after = predicted(compiled)
    (report,) = compiled
    assert report.uncut is not None
    for timeline, schedules in ((before, [report.uncut]), (after, report.schedules)):
        found = [timeline.step_us, timeline.compute_us, timeline.exposed_us]
        names = ("predicted_us", "compute_us", "exposed_us")
        expected = [sum(getattr(s, name) for s in schedules) for name in names]
        assert found == pytest.approx(expected, rel=1e-3)
    assert after.exposed_us < before.exposed_us


def test_nothing_overlaps_in_a_lane_of_one_group(compiled: list[CompileReport]) -> None:
    for timeline in predicted(compiled):
        for lane in ("compute", "wire"):
            spans = [s for s in timeline.spans if s.lane == lane]
            total = sum(s.end_us - s.begin_us for s in spans)
            assert union_us((s.begin_us, s.end_us) for s in spans) == pytest.approx(total)


def test_a_timeline_survives_json(compiled: list[CompileReport]) -> None:
    for timeline in predicted(compiled):
        assert Timeline.from_dict(json.loads(json.dumps(timeline.as_dict()))) == timeline
    with pytest.raises(ValueError, match="version 0"):
        Timeline.from_dict(predicted(compiled)[0].as_dict() | {"schema_version": 0})


def test_what_is_left_to_inductor_stays_as_it_was(compiled: list[CompileReport]) -> None:
    for left in (replace(compiled[0], schedules=[]), replace(compiled[0], status="inductor")):
        before, after = predicted([left])
        assert after.spans == before.spans != ()


def test_nothing_compiled_is_an_empty_timeline() -> None:
    before, after = predicted([CompileReport(0)])
    assert before.spans == after.spans == () and before.step_us == 0


def test_length_of_a_union() -> None:
    assert union_us([]) == 0
    assert union_us([(5, 7), (0, 2), (1, 3)]) == 5
    assert union_us([(0, 10), (2, 3)]) == 10
