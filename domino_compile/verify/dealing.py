"""Which tokens ranks get when tokens are exchanged, token by token.

Tokens are numbered as in the whole sequence. ``held`` is how ranks have them without a cut, one
contiguous part each; ``dealt`` is how a cut gives them to ranks: of every slice, one contiguous
part each. This shares no code with the operations (``domino_compile.ops.tokens``).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from domino_compile.verify.plain import Operation


def arrivals(op: Operation) -> list[Any]:
    """Return for each rank where the tokens that it gets come from: two rows, rank and position."""
    return _arrivals(*op.args[1:4])


def arrangements(op: Operation) -> list[Any]:
    """Return for each rank where the tokens that are put in order were."""
    return _arrangements(*op.args[1:4])


@cache
def _owners(lengths: tuple[int, ...], ranks: int) -> tuple[Any, Any]:
    """Return the rank that holds each token, and the rank that it is dealt to."""
    held = np.repeat(np.arange(ranks), sum(lengths))
    dealt = np.concatenate([np.repeat(np.arange(ranks), length) for length in lengths])
    return held, dealt


@cache
def _arrivals(lengths: tuple[int, ...], back: bool, ranks: int) -> list[Any]:
    """Follow an all-to-all: blocks leave in the order of targets, arrive in that of sources."""
    sources, targets = _owners(lengths, ranks)[:: -1 if back else 1]
    number = np.arange(len(sources))
    leaves = np.lexsort((number, targets, sources)).reshape(ranks, -1)
    rank_and_place = np.empty((2, len(sources)), dtype=np.int64)
    for rank, tokens in enumerate(leaves):
        rank_and_place[0, tokens], rank_and_place[1, tokens] = rank, np.arange(len(tokens))
    arrives = np.lexsort((number, sources, targets)).reshape(ranks, -1)
    return [rank_and_place[:, tokens] for tokens in arrives]


@cache
def _arrangements(lengths: tuple[int, ...], back: bool, ranks: int) -> list[Any]:
    """Put each rank's tokens into the order of the ranks that they are dealt to, or back."""
    held, dealt = _owners(lengths, ranks)
    number = np.arange(len(held))
    ordered = np.lexsort((number, dealt, held)).reshape(ranks, -1)
    return [np.argsort(order) if back else order - order.min() for order in ordered]
