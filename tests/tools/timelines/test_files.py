"""Timelines as traces and as pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from domino_compile.tools.timelines import Span, Timeline
from domino_compile.tools.timelines.chrome import chrome_trace

SPANS = (
    Span("compute", "mm_s0", "gemm", 0, 30, slice=0, phase="forward", source="up"),
    Span("wire", "ar_s0", "all_reduce", 30, 50, "tp", 0, "forward", "0:ar", "up"),
    Span("compute", "mm_s1", "gemm", 30, 45, slice=1),
    Span("compute", "wait_s0", "wait", 45, 50, slice=0, collective="0:ar"),
    Span("wire", "other", "all_gather", 10, 20, "dp"),
)
ONE = Timeline("with domino", 1, measured=True, emulated=True, spans=SPANS)


def test_a_chrome_trace_holds_every_span_in_its_lane() -> None:
    events = json.loads(chrome_trace([ONE, ONE]))["traceEvents"]
    spans = [e for e in events if e["ph"] == "X" and e["pid"] == 1]
    assert [(e["name"], e["ts"], e["dur"]) for e in spans] == [
        (s.name, s.begin_us, s.end_us - s.begin_us) for s in SPANS
    ]
    lanes = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert lanes == {0: "compute", 1: "wire, group tp", 2: "wire, group dp"}
    assert [e["tid"] for e in spans] == [0, 1, 0, 0, 2]
    assert spans[1]["args"] == {
        "kind": "all_reduce", "slice": 0, "phase": "forward", "collective": "0:ar", "source": "up"
    }  # fmt: skip
    (process,) = (e for e in events if e["name"] == "process_name" and e["pid"] == 0)
    assert "rank 1" in process["args"]["name"] and "emulated link" in process["args"]["name"]


def test_totals() -> None:
    assert (ONE.step_us, ONE.wire_us, ONE.compute_us, ONE.exposed_us) == (50, 30, 45, 5)
    assert "0.005 ms of it exposed (measured, one traced step, emulated link)" in ONE.summary()


def test_a_picture_has_the_colours_of_the_slices(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    from domino_compile.tools.timelines.picture import draw

    path = tmp_path / "timeline.png"
    draw([ONE, ONE], "title", path)
    pixels = {
        tuple(round(255 * float(c)) for c in p[:3]) for row in image.imread(path) for p in row
    }
    assert {(0, 114, 178), (230, 159, 0), (138, 143, 152)} <= pixels
