"""What can be asked for, and what is refused."""

from __future__ import annotations

import pytest

from domino_compile.tools.bench.shapes import SHAPES, BenchError, shape_of
from domino_compile.tools.bench.variants import RIVALS, Variant, parse_variant, parse_variants
from domino_compile.tools.bench.workload import Workload


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_dimensions_fit_together(shape: object) -> None:
    found = SHAPES[shape.name]  # type: ignore[attr-defined]
    assert found.source
    # Queries of all heads are as wide as the residual stream, but for Qwen 3.
    assert found.heads * found.head_dim == found.hidden or found.name == "qwen3-32b"
    assert found.heads % found.kv_heads == 0


def test_published_sizes() -> None:
    """Parameters of the blocks, by the published dimensions."""
    gpt, llama = shape_of("gpt3-13b"), shape_of("llama2-7b")
    assert 12 * gpt.hidden**2 * gpt.layers == pytest.approx(12.6e9, rel=0.01)
    per_block = 4 * llama.hidden**2 + 3 * llama.hidden * llama.ffn
    embeddings = 2 * llama.vocabulary * llama.hidden
    assert per_block * llama.layers + embeddings == pytest.approx(6.74e9, rel=0.01)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("llama3-8b", 8.03e9),
        ("llama3-70b", 70.6e9),
        ("llama3-405b", 405.9e9),
        ("qwen3-32b", 32.8e9),
    ],
)
def test_published_sizes_with_grouped_queries(name: str, published: float) -> None:
    shape = shape_of(name)
    attention = 2 * shape.hidden * shape.head_dim * (shape.heads + shape.kv_heads)
    per_block = attention + 3 * shape.hidden * shape.ffn
    embeddings = 2 * shape.vocabulary * shape.hidden
    assert per_block * shape.layers + embeddings == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "gpt3-6b"}, "did you mean 'gpt3-6.7b'"),
        ({"model": "llama3-8b", "tp": 16}, "kv_heads=8 cannot be divided among --tp 16"),
        ({"tp": 1}, "--tp must be at least 2"),
        ({"tp": 0}, "--tp must be at least 2"),
        ({"batch": 0}, "--batch must be at least 1"),
        ({"style": "megatorn"}, "did you mean 'megatron'"),
        ({"dtype": "fp8"}, "known: bf16, fp16, fp32"),
        ({"dropout": 1.0}, "--dropout"),
        ({"ac": "ful"}, "--ac: unknown 'ful'; did you mean 'full'"),
        ({"granularity": "layer"}, "--compile: unknown 'layer'"),
        ({"ac": "full", "training": False}, "--ac needs training"),
        ({"style": "sp", "seq": 9}, "--seq 9 cannot be divided among --tp 2"),
    ],
)
def test_refused_workloads(change: dict[str, object], message: str) -> None:
    asked: dict[str, object] = {"model": "gpt3-6.7b", "layers": 1, "batch": 1, "seq": 8, "tp": 2}
    with pytest.raises(BenchError) as caught:
        Workload(**{**asked, **change})  # type: ignore[arg-type]
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_variants() -> None:
    assert parse_variant(" domino:3 ") == Variant("domino", 3)
    assert parse_variant("domino:3").label == "domino:3"
    assert parse_variant("domino-free:1x2") == Variant("domino-free", 1, 2)
    assert parse_variant("domino:1x2").label == "domino:1x2"
    assert parse_variants("free,domino,free") == [
        Variant("inductor"), Variant("free"), Variant("domino"),
    ]  # fmt: skip


def test_variants_of_inductors_own_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    measured, rival = parse_variants("domino-measured,inductor-async-tp")[1:]
    assert measured.domino and measured.measures and not measured.missing()
    assert not (rival.domino or rival.free or rival.measures or rival.missing())
    monkeypatch.setitem(RIVALS, "inductor-overlap", "no_such_option")
    with pytest.raises(BenchError, match=r"inductor-overlap: torch .* has no no_such_option"):
        parse_variant("inductor-overlap").prepare(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dominoe", "did you mean 'domino'"),
        ("inductor:2", "only domino takes a number of slices"),
        ("domino:x", "such as domino:3"),
        ("domino:0", "such as domino:3"),
        ("domino:2x", "such as domino:1x2"),
    ],
)
def test_refused_variants(text: str, message: str) -> None:
    with pytest.raises(BenchError, match="--variants") as caught:
        parse_variant(text)
    assert message in str(caught.value)
