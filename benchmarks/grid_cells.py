"""The configurations of ``benchmarks.grid``: their list, their memory, and who shares a round.

This module does not import torch: the process that only distributes work does not load it.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from domino_compile.tools.bench.shapes import ModelShape, shape_of

MODELS = ("gpt3-2.7b", "gpt3-6.7b", "llama2-7b", "gpt3-13b", "llama3-8b")
BATCHES = (1, 2, 3, 4, 8, 16, 32)
SEQS = (128, 256, 512, 1024, 2048, 4096)
TPS = (2, 4, 8)
#: Links from NVLink to slow networks; each is scaled to the group's size.
LINKS = (
    "h200-nvlink-8",
    "h200-nvlink-8-azure",
    "h100-ib-2x8-model",
    "h100-ib-4x8-model",
    "h100-2x8-gcp-a3mega",
    "b200-4x8-efa",
)
#: The number of configurations in the table, and of blocks in each.
COUNT, LAYERS = 66, 2
#: Tokens per step: fewer would measure launches, more would need much memory.
TOKENS = (512, 16384)
#: The memory that the tensors of a configuration's two programs may take.
MOST_GIB = 6.0
#: One configuration in this many is forward only, and one in this many is DTensor.
FORWARD_EVERY, DTENSOR_EVERY = 7, 3
#: The number of random configurations from which the best is picked next.
POOL = 300
SEED = 11
#: Memory beyond live tensors: torch's allocator and CUDA graphs, and a process's CUDA context.
KEPT, CONTEXT_GIB = 1.7, 0.8


@dataclass(frozen=True)
class Cell:
    """One configuration.

    Attributes:
        number: its number for ``--only``.
        model: a name in ``domino_compile.tools.bench.shapes``.
        layers: the number of blocks.
        batch: rows of the batch.
        seq: tokens of a row.
        tp: the number of ranks that share a layer.
        link: the table of the *emulated* link.
        style: ``megatron`` or ``dtensor``.
        training: whether it runs forward and backward, or forward only.
        dtype: the type of parameters and activations.
    """

    number: int
    model: str
    layers: int
    batch: int
    seq: int
    tp: int
    link: str
    style: str
    training: bool
    dtype: str = "bf16"
    ac: ClassVar[str] = "none"
    granularity: ClassVar[str] = "whole"

    def __str__(self) -> str:
        what = "training" if self.training else "forward"
        shape = f"{self.batch}x{self.seq} tp{self.tp}"
        return f"#{self.number} {self.model} {shape} {self.link} {self.style} {what}"

    @property
    def shape(self) -> ModelShape:
        """The model's dimensions."""
        return shape_of(self.model)

    @property
    def dropout(self) -> float:
        """The dropout of the residual branches, as in ``domino bench``."""
        return 0.1 if self.shape.kind == "gpt" and self.training else 0.0

    @property
    def live_gib(self) -> float:
        """Approximate live memory: two programs' parameters and gradients, one's activations."""
        shape, tokens = self.shape, self.batch * self.seq
        attention = shape.hidden * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)
        feed_forward = (2 if shape.kind == "gpt" else 3) * shape.hidden * shape.ffn
        parameters = self.layers * (attention + feed_forward) / self.tp
        kept = 6 + (4 + 2.5 * shape.ffn / shape.hidden) / self.tp
        units = 12 + (self.layers * kept if self.training else 0)
        gradients = 2 if self.training else 1
        return (2 * gradients * parameters + units * tokens * shape.hidden) * 2 / 2**30

    @property
    def process_gib(self) -> float:
        """The approximate GPU memory of its process."""
        return CONTEXT_GIB + KEPT * self.live_gib

    @property
    def judge_gib(self) -> float:
        """The additional memory that it needs during its turn to measure: none."""
        return 0.0


@cache
def cells() -> tuple[Cell, ...]:
    """Return the table, always the same, with as many pairs of axes' values as possible.

    Each configuration is picked from a seeded random pool: the one whose pairs of values, of any
    two axes, have occurred least so far.
    """
    combinations = list(_combinations())
    rng = random.Random(SEED)
    seen: Counter[tuple[object, ...]] = Counter()
    chosen: list[Cell] = []
    used: set[tuple[object, ...]] = set()
    while len(chosen) < COUNT:
        number = len(chosen)
        style = "dtensor" if number % DTENSOR_EVERY == DTENSOR_EVERY - 1 else "megatron"
        training = number % FORWARD_EVERY != FORWARD_EVERY // 2
        pool = [
            cell
            for cell in (
                Cell(number, model, LAYERS, batch, seq, tp, link, style, training)
                for model, (batch, seq), tp, link in rng.sample(combinations, POOL)
            )
            if cell.live_gib <= MOST_GIB and _values(cell) not in used
        ]
        best = min(pool, key=lambda cell: sum(seen[mark] for mark in _marks(cell)))
        seen.update(_marks(best))
        used.add(_values(best))
        chosen.append(best)
    return tuple(chosen)


def _combinations() -> Iterator[tuple[str, tuple[int, int], int, str]]:
    low, high = TOKENS
    sizes = [(b, s) for b, s in itertools.product(BATCHES, SEQS) if low <= b * s <= high]
    return itertools.product(MODELS, sizes, TPS, LINKS)


def _values(cell: Cell) -> tuple[object, ...]:
    return (
        *(cell.model, cell.batch, cell.seq, cell.tp, cell.link),
        *(cell.style, cell.training),
    )


def _marks(cell: Cell) -> list[tuple[object, ...]]:
    """Return its values and pairs of values; a value weighs as much as all of its pairs."""
    values = list(enumerate(_values(cell)))
    alone = [(*value, "alone", i) for value in values for i in range(len(values) - 1)]
    return [*alone, *itertools.combinations(values, 2)]


def dry_cells() -> tuple[Cell, ...]:
    """Return small configurations for a dry run on the CPU, which only exercises the code."""
    models, styles = ("tiny-gpt", "tiny-llama"), ("megatron", "dtensor")
    kinds = itertools.product(models, styles)
    return tuple(
        Cell(number, model, 1, 4, 64, 2, "demo-2", style, number != 3, "fp32")
        for number, (model, style) in enumerate(kinds)
    )


def rounds_of(chosen: Sequence[Cell], workers: int, room_gib: float) -> list[list[Cell]]:
    """Split configurations into rounds of equal size and similar memory, compiled side by side.

    Args:
        chosen: the configurations.
        workers: the most configurations in a round.
        room_gib: GPU memory for a round; a configuration that needs more gets its own round.
    """
    if not chosen:
        return []
    least = math.ceil(len(chosen) / workers)
    for count in range(least, len(chosen)):
        dealt = _dealt(chosen, count)
        if all(_needs_gib(cells) <= room_gib for cells in dealt):
            return dealt
    return [[cell] for cell in chosen]


def _needs_gib(cells: Sequence[Cell]) -> float:
    """Return the memory for all processes side by side, one of them measuring."""
    return sum(cell.process_gib for cell in cells) + max(cell.judge_gib for cell in cells)


def _dealt(chosen: Sequence[Cell], count: int) -> list[list[Cell]]:
    """Deal configurations like cards, the largest first, back and forth."""
    dealt: list[list[Cell]] = [[] for _ in range(count)]
    places = itertools.cycle([*range(count), *reversed(range(count))])
    largest = sorted(chosen, key=lambda cell: (-cell.process_gib, cell.number))
    for cell, place in zip(largest, places, strict=False):
        dealt[place].append(cell)
    return [sorted(cells, key=lambda cell: cell.number) for cells in dealt]
