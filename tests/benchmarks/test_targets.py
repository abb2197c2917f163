"""The workloads by which the package is judged, and their table."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from benchmarks.targets import TITLES, VARIANTS, line, table, workloads
from domino_compile.links import load_link
from domino_compile.tools.bench.result import BenchResult, VariantResult
from domino_compile.tools.bench.variants import parse_variants


def row(number: int) -> dict[str, Any]:
    cell = workloads()[number]
    known = {key: value for key, value in asdict(cell).items() if key != "number"}
    others = {"head": False, "dropout": cell.dropout, "cuda_graphs": True, "device": "it"}
    result = BenchResult(**known, **others, emulated=True, torch="2", command="", rounds=1, steps=3)
    for name, step_ms in (("inductor", 12.0), ("domino", 10.0), ("free", 9.0)):
        found = VariantResult(name, step_ms=step_ms, wire_ms=4.0, exposed_ms=0.5, compute_ms=9.0)
        result.variants.append(found)
    result.compare()
    return {"number": number} | result.rounded()


def test_every_workload_can_be_built() -> None:
    found = workloads()
    assert [cell.number for cell in found] == list(range(len(found)))
    for cell in found:
        cell.shape.divided_by(cell.tp)
        assert load_link(cell.link).scaled_to(cell.tp).ranks == cell.tp
    links = Counter(cell.link for cell in found if cell.training)
    assert len(links) == 4 and min(links.values()) >= 3
    assert sum(not cell.training for cell in found) == 1
    assert "domino" in [variant.name for variant in parse_variants(VARIANTS)]


def test_the_table_has_a_line_for_each() -> None:
    failed = {"number": 3, "error": "no room"}
    lines = table([row(0), row(1), failed])
    assert len(lines) == 5 and lines[-1] == "#3: FAILED: no room"
    cells = dict(zip(TITLES, [part.strip() for part in lines[2].split("|")[1:-1]], strict=True))
    assert cells["speed-up"] == "1.200" and cells["of free"] == "0.90"
    assert cells["hidden"] == "88%" and cells["workload"].startswith("gpt3-6.7b")
    assert "1.200" in line(row(0))
