"""The models that ``domino bench`` knows by name, with their published dimensions."""

from __future__ import annotations

from dataclasses import dataclass

from domino_compile.errors import DominoError, did_you_mean


class BenchError(DominoError, ValueError):
    """A benchmark is impossible as requested. The one-line message says what to change."""


@dataclass(frozen=True)
class ModelShape:
    """The dimensions of a transformer.

    Attributes:
        name: The name for ``--model``.
        kind: ``gpt`` (LayerNorm, fused qkv, GELU, biases, dropout) or ``llama`` (RMSNorm, rotary
            positions, grouped-query attention, SwiGLU, no biases).
        layers: The number of layers of the whole model; a benchmark may take fewer.
        hidden: The width of the residual stream.
        heads: The number of attention heads.
        kv_heads: The number of heads of keys and values.
        head_dim: The width of a head.
        ffn: The inner width of the feed-forward part.
        vocabulary: The number of tokens.
        qk_norm: Whether queries and keys are normalised, one head at a time (Qwen 3).
        source: The publication of the numbers.
    """

    name: str
    kind: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    qk_norm: bool = False
    source: str = ""

    def divided_by(self, ranks: int) -> None:
        """Check that every rank gets whole heads and an equal part of the feed-forward width.

        Raises:
            BenchError: The ranks do not divide a dimension. The message has possible numbers.
        """
        for what, extent in (("heads", self.heads), ("kv_heads", self.kv_heads), ("ffn", self.ffn)):
            if extent % ranks:
                fits = [n for n in (2, 4, 8, 16, 32, 64) if not self._rest(n)]
                raise BenchError(
                    f"{self.name}: {what}={extent} cannot be divided among --tp {ranks}; "
                    f"possible: {', '.join(map(str, fits))}"
                )

    def _rest(self, ranks: int) -> bool:
        return any(extent % ranks for extent in (self.heads, self.kv_heads, self.ffn))


def _gpt(
    name: str, layers: int, hidden: int, heads: int, source: str, vocabulary: int
) -> ModelShape:
    return ModelShape(
        name, "gpt", layers, hidden, heads, heads, hidden // heads, 4 * hidden, vocabulary,
        source=source,
    )  # fmt: skip


_GPT3 = "Brown et al. 2020, arXiv 2005.14165, table 2.1 (13B: width 5120 for the printed 5140)"
_MADE_UP = "made up, for machines without a GPU"

SHAPES: dict[str, ModelShape] = {
    shape.name: shape
    for shape in (
        _gpt("tiny-gpt", 4, 256, 8, _MADE_UP, 256),
        ModelShape("tiny-llama", "llama", 4, 256, 8, 4, 32, 704, 256, source=_MADE_UP),
        _gpt("gpt3-2.7b", 32, 2560, 32, _GPT3, 50257),
        _gpt("gpt3-6.7b", 32, 4096, 32, _GPT3, 50257),
        _gpt("gpt3-13b", 40, 5120, 40, _GPT3, 50257),
        ModelShape(
            "llama2-7b", "llama", 32, 4096, 32, 32, 128, 11008, 32000,
            source="Touvron et al. 2023, arXiv 2307.09288, and its released configuration",
        ),
        ModelShape(
            "llama2-13b", "llama", 40, 5120, 40, 40, 128, 13824, 32000,
            source="Touvron et al. 2023, arXiv 2307.09288, and its released configuration",
        ),
        ModelShape(
            "llama3-8b", "llama", 32, 4096, 32, 8, 128, 14336, 128256,
            source="Grattafiori et al. 2024, arXiv 2407.21783, table 3",
        ),
        ModelShape(
            "llama3-70b", "llama", 80, 8192, 64, 8, 128, 28672, 128256,
            source="Grattafiori et al. 2024, arXiv 2407.21783, table 3",
        ),
        ModelShape(
            "llama3-405b", "llama", 126, 16384, 128, 8, 128, 53248, 128256,
            source="Grattafiori et al. 2024, arXiv 2407.21783, table 3",
        ),
        ModelShape(
            "qwen3-32b", "llama", 64, 5120, 64, 8, 128, 25600, 151936, qk_norm=True,
            source="Yang et al. 2025, arXiv 2505.09388, and its released configuration",
        ),
        ModelShape(
            "qwen3-8b-like", "llama", 36, 4096, 32, 8, 128, 12288, 151936, qk_norm=True,
            source="Yang et al. 2025, arXiv 2505.09388, and its released configuration",
        ),
    )
}  # fmt: skip


def shape_of(name: str) -> ModelShape:
    """Return a model by its name.

    Raises:
        BenchError: The name is unknown. The message has the closest spelling and all names.
    """
    if name in SHAPES:
        return SHAPES[name]
    hint = did_you_mean(name, SHAPES)
    raise BenchError(f"unknown model {name!r}{hint}; known: {', '.join(SHAPES)}")
