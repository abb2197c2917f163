"""Predictions of public tables: the published results are what today's arithmetic gives."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from math import log
from typing import Any

import pytest

from benchmarks import public_page
from benchmarks.public_capture import Shape, Terms, capture, layer_and_end
from benchmarks.public_step import SYSTEMS, shape_in, step_ms, step_terms, tokens_per_s
from benchmarks.public_tables import (
    RESULTS,
    ROWS,
    calibration_of,
    captures_in,
    results,
    shapes,
)
from domino_compile.tools.bench.shapes import shape_of

PUBLIC = json.loads(ROWS.read_text())
FOUND = json.loads(RESULTS.read_text())
#: A layer of the right order of magnitude, in microseconds.
LAYER = Terms(9000, 21, 1e9, 2000, 2, 3000, 30, 2000, 2000, 1e9)
END = Terms(fused_us=300, fused=3)


def job(**changes: Any) -> dict[str, Any]:
    """A row with tensor parallelism and none of the other kinds."""
    row = next(row for row in PUBLIC["rows"] if row["source"] == "async-tp")
    return {**row, **changes}


def terms_of(**changes: Any) -> dict[str, float]:
    row = job(**changes)
    return step_terms(row, LAYER, END, SYSTEMS[row["system"]])


def test_the_page_and_the_results_are_of_today() -> None:
    captures = captures_in(RESULTS)
    assert set(captures) == {str(shape) for shape in shapes(PUBLIC["rows"])}
    assert results(PUBLIC["rows"], captures) == FOUND, "python -m benchmarks.public_tables --render"
    page = public_page.PAGE.read_text()
    assert page == public_page.rendered(page, FOUND, PUBLIC)


def test_no_row_is_left_out_and_every_one_has_a_source() -> None:
    assert len(FOUND["rows"]) == len(PUBLIC["rows"])
    page = public_page.PAGE.read_text()
    for row in PUBLIC["rows"]:
        assert f"| {row['tokens_per_s_per_gpu']:g} |" in page
        assert len(PUBLIC["sources"][row["source"]]["commit"]) == 40


def test_what_calibrates_is_not_scored() -> None:
    for row in FOUND["rows"]:
        assert row["control"] == (row["tp"] == 1)
    for name in FOUND["clocks"]:
        controls = [r for r in FOUND["rows"] if r["control"] and calibration_of(r) == name]
        logs = [log(1 + row["calibrated"]["error"]) for row in controls]
        assert statistics.mean(logs) == pytest.approx(0, abs=1e-3)


def test_a_job_fills_its_gpus() -> None:
    for row in PUBLIC["rows"]:
        assert row["gpus"] % (row["tp"] * row["pp"] * row["cp"]) == 0
        assert row["gbs"] % (row["mbs"] * row["gpus"] // (row["tp"] * row["pp"] * row["cp"])) == 0
        shape_of(row["model"]).divided_by(row["tp"])
        assert tokens_per_s(row, step_ms(row, 123.0)) == pytest.approx(123.0)


def test_exposed_collectives_are_those_of_all_layers() -> None:
    """Without copies, which only more than one row needs."""
    found = terms_of(mbs=1, gbs=32, float8_gathers=False)
    assert found["exposed TP"] == pytest.approx(80 * 4.0)
    assert terms_of(mbs=1, gbs=32, float8_gathers=True)["exposed TP"] == pytest.approx(80 * 3.0)
    overlapped = terms_of(mbs=1, gbs=32, tp_overlap=True)["exposed TP"]
    assert 80 * 4.0 / 8 < overlapped < 80 * 4.0 / 4


def test_micro_batches_and_stages() -> None:
    """A bubble is one stage less than the pipeline has, over its virtual stages."""
    one = terms_of(mbs=1, gbs=32)
    two = terms_of(mbs=1, gbs=64)
    assert two["products"] == pytest.approx(2 * one["products"])
    piped = terms_of(mbs=1, gbs=32 * 5, gpus=256, pp=4, vp=5, fsdp=8)
    assert piped["products"] == pytest.approx(one["products"] / 4 * 20)
    work = sum(piped.values()) - sum(
        piped[name] for name in ("pipeline bubble", "data parallel", "optimizer")
    )
    assert piped["pipeline bubble"] == pytest.approx(work / 20 * 3 / 5)


def test_fp8_halves_products_and_adds_casts() -> None:
    exact, rounded = terms_of(precision="bf16"), terms_of(precision="fp8")
    assert rounded["products"] == pytest.approx(exact["products"] / 2)
    assert rounded["attention"] == exact["attention"] and rounded["head"] == exact["head"]
    assert "casts to fp8" not in exact and rounded["casts to fp8"] > 0


def test_a_faster_clock_shortens_what_computes_alone() -> None:
    row = job()
    slow, fast = (
        step_terms(row, LAYER, END, replace(SYSTEMS[row["system"]], clock=clock))
        for clock in (0.5, 1.0)
    )
    assert fast["products"] == pytest.approx(slow["products"] / 2)
    assert fast["fused kernels"] == slow["fused kernels"]


@pytest.mark.slow
def test_layers_add_up() -> None:
    """Three layers are the first capture and twice a layer; a layer has its products."""
    shape = Shape("tiny-llama", 2, 2, 64, "none")
    layer, end = layer_and_end(shape)
    assert (layer.products, layer.attentions) == (21, 2)
    assert layer.gathers_us > 0 and layer.scatters_us > 0
    three = capture(shape, 3)
    assert three.products == end.products + 3 * layer.products
    assert three.products_us == pytest.approx(end.products_us + 3 * layer.products_us, rel=0.02)
    assert three.gathers_us == pytest.approx(end.gathers_us + 3 * layer.gathers_us)


def test_without_tensor_parallelism_nothing_is_on_the_wire() -> None:
    captures = captures_in(RESULTS)
    for shape in shapes(PUBLIC["rows"]):
        layer, _ = captures[str(shape)]
        assert (layer.gathers_us > 0) == (layer.scatters_us > 0) == (shape.tp > 1)


def test_every_shape_is_named_once() -> None:
    names = [str(shape) for shape in shapes(PUBLIC["rows"])]
    assert len(names) == len(set(names))
    assert str(shape_in(job())) in names
