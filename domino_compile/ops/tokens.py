"""Operations that move tokens between the rank that holds them and the rank that a cut gives them.

Without a cut, each rank holds one contiguous part of a sequence. With a cut, it holds a part of
every slice (``analysis.dealt``). Two ranks and slices of six and two tokens, ``|`` between ranks::

    held     0 1 2 3 | 4 5 6 7
    dealt    0 1 2 6 | 3 4 5 7        (slice 0: 0 1 2 | 3 4 5, slice 1: 6 | 7)

``all_to_all_tokens`` sends each token to the rank that the cut gives it to, or back. How many a
rank sends to another depends on both, so the operation works that out while it runs: all ranks have
the same graph, and the same code.

An all-to-all sends what is contiguous. A rank that holds the end of one slice and the beginning of
the next has two blocks for the same rank, with others in between. ``arrange_tokens`` puts these
next to each other before the exchange, and back into their order after the exchange back.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch

from domino_compile import _compat
from domino_compile._compat.operators import c10d
from domino_compile.ops.library import library


class Block(NamedTuple):
    """Tokens that one rank holds, and that the cut gives to one rank as part of one slice."""

    slice: int
    rank: int
    length: int


def blocks_of(lengths: Sequence[int], ranks: int, holder: int) -> list[Block]:
    """Return the tokens that a rank holds without a cut, in order, as blocks that go elsewhere.

    Args:
        lengths: The number of tokens that each rank has of each slice.
        ranks: The number of ranks.
        holder: The rank.
    """
    held = sum(lengths)
    first, end = holder * held, (holder + 1) * held
    blocks = []
    for index, (length, before) in enumerate(zip(lengths, _starts(lengths), strict=True)):
        for rank in range(ranks):
            start = before * ranks + rank * length
            common = min(end, start + length) - max(first, start)
            if common > 0:
                blocks.append(Block(index, rank, common))
    return blocks


def is_arranged(lengths: Sequence[int], ranks: int) -> bool:
    """Return whether every slice ends with the tokens of a rank, so that blocks are in order."""
    held = sum(lengths)
    return all(start * ranks % held == 0 for start in _starts(lengths))


def _starts(lengths: Sequence[int]) -> list[int]:
    return list(accumulate(lengths, initial=0))[:-1]


def _sent(lengths: Sequence[int], ranks: int, holder: int) -> list[int]:
    """Return how many tokens a rank sends to each rank."""
    counts = [0] * ranks
    for block in blocks_of(lengths, ranks, holder):
        counts[block.rank] += block.length
    return counts


def _all_to_all_tokens(
    value: torch.Tensor, lengths: list[int], back: bool, ranks: int, group_name: str
) -> torch.Tensor:
    """Start to send each token to the rank that the cut gives it to; return the result to wait for.

    Args:
        value: This rank's tokens, along dimension 0.
        lengths: The number of tokens that each rank has of each slice.
        back: Whether tokens return to the ranks that hold them without a cut.
        ranks: The number of ranks.
        group_name: The name of their process group.
    """
    own = _compat.rank_in(group_name)
    sent = _sent(lengths, ranks, own)
    received = [_sent(lengths, ranks, rank)[own] for rank in range(ranks)]
    if back:
        sent, received = received, sent
    return c10d.all_to_all_single(value.contiguous(), received, sent, group_name)  # type: ignore[no-any-return]


def _arrange_tokens(
    value: torch.Tensor, lengths: list[int], back: bool, ranks: int, group_name: str
) -> torch.Tensor:
    """Put a rank's blocks into the order of the ranks that they go to, or back; see above."""
    blocks = blocks_of(lengths, ranks, _compat.rank_in(group_name))
    by_rank = sorted(range(len(blocks)), key=lambda i: (blocks[i].rank, blocks[i].slice))
    given = by_rank if back else range(len(blocks))
    pieces = dict(zip(given, value.split([blocks[i].length for i in given]), strict=True))
    return torch.cat([pieces[i] for i in (range(len(blocks)) if back else by_rank)])


def _like_tokens(value: torch.Tensor, *_: Any) -> torch.Tensor:
    return value.new_empty(value.shape)


def _define(name: str, run: Any) -> Any:
    arguments = "Tensor value, int[] lengths, bool back, int ranks, str group_name"
    library.define(f"{name}({arguments}) -> Tensor")
    library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"domino_compile::{name}", _like_tokens, lib=library)
    return getattr(torch.ops.domino_compile, name).default


all_to_all_tokens: Any = _define("all_to_all_tokens", _all_to_all_tokens)
arrange_tokens: Any = _define("arrange_tokens", _arrange_tokens)
