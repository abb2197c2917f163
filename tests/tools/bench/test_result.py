"""Results: what relates variants, the JSON, the table and the page."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from domino_compile.tools.bench.result import BenchResult, VariantResult
from domino_compile.tools.bench.show import page, table

#: What the issue tracker promises to programs that read the JSON.
KEYS = {
    *("model", "layers", "batch", "seq", "tp", "link", "emulated", "training", "cuda_graphs"),
    *("device", "torch", "command", "variants"),
}
VARIANT_KEYS = {
    *("variant", "slices", "step_ms", "spread_ms", "ratio_to_inductor", "fraction_of_free"),
    *("fraction_of_bound", "wire_ms", "hidden_fraction", "exposed_ms", "compute_ms", "peak_mib"),
    *("compile_s", "grad_error", "predicted_peak_mib"),
}


def example() -> BenchResult:
    inductor = VariantResult("inductor", step_ms=16.0, spread_ms=(15.9, 16.1), wire_ms=5.0)
    inductor.exposed_ms, inductor.compute_ms = 5.0, 11.0
    domino = VariantResult("domino", 2, status="sliced", step_ms=12.8, wire_ms=6.0, exposed_ms=0.3)
    domino.compute_ms, domino.grad_error = 12.1, 1e-4
    free = VariantResult("free", step_ms=11.0, wire_ms=0.0, exposed_ms=0.0, compute_ms=11.0)
    failed = VariantResult("inductor-overlap", status="failed", error="ValueError: <no>")
    result = BenchResult(
        model="gpt3-6.7b", layers=4, batch=8, seq=1024, tp=8, style="megatron", training=True,
        head=False, dropout=0.1, dtype="bf16", ac="none", granularity="whole",
        link="h200-nvlink-8", emulated=True, cuda_graphs=True, device="some GPU",
        torch="2.13", command="domino bench", rounds=20, steps=3,
        variants=[inductor, failed, domino, free],
    )  # fmt: skip
    result.compare()
    return result


def test_comparisons() -> None:
    domino = example().by_name("domino")
    assert domino is not None
    assert domino.speedup == pytest.approx(1.25) and domino.ratio_to_inductor == pytest.approx(0.8)
    assert domino.fraction_of_free == pytest.approx(11 / 12.8)
    assert domino.fraction_of_bound == domino.fraction_of_free  # the wire is shorter
    assert domino.hidden_fraction == pytest.approx(0.95)
    assert domino.inflation == pytest.approx(1.1)


def test_the_bound_is_the_wire_where_that_is_longer() -> None:
    result = example()
    result.variants[0].wire_ms = 12.0
    result.compare()
    assert result.variants[2].fraction_of_bound == pytest.approx(12 / 12.8)


def test_json() -> None:
    data = json.loads(example().to_json())
    assert data.keys() >= KEYS
    assert all(variant.keys() >= VARIANT_KEYS for variant in data["variants"])
    assert data["variants"][1]["step_ms"] is None and "no" in data["variants"][1]["error"]
    assert data["variants"][2]["grad_error"] == 1e-4


def test_the_table_leaves_out_what_failed_and_what_nobody_measured() -> None:
    titles, rows = table(example())
    assert [row[0] for row in rows] == ["inductor", "domino", "free"]
    assert "peak MiB" not in titles and "hidden %" in titles
    assert rows[1][titles.index("hidden %")] == "95"


class Reader(HTMLParser):
    """Collects text and checks that every element is closed."""

    VOID = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {"src", "href"} & {name for name, _ in attrs}, "the page must stand alone"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_stands_alone_and_says_what_is_emulated() -> None:
    reader = Reader()
    reader.feed(page(example()))
    assert reader.open == []
    assert "Emulated link" in reader.text and "inductor-overlap failed" in reader.text
    assert "ValueError: <no>" in reader.text  # escaped in the source


def test_a_real_link_is_not_called_emulated() -> None:
    result = example()
    result.emulated, result.link = False, "NCCL"
    assert "mulated" not in page(result)
