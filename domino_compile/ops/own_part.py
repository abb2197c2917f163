"""The operation ``domino_compile::own_part``, which takes a rank's part of what all ranks have.

It is an operation of its own, not a slice at the rank's place, so that all ranks have the same
graph. It copies: a view would keep what all ranks have in memory for as long as the part is needed.
"""

from __future__ import annotations

from typing import Any

import torch

from domino_compile import _compat
from domino_compile.ops.library import library


def _own_part(gathered: torch.Tensor, dim: int, ranks: int, group: str) -> torch.Tensor:
    """Return this rank's block of a dimension.

    Args:
        gathered: The values of all ranks, one block after the other.
        dim: The dimension.
        ranks: The number of ranks.
        group: The name of their process group.
    """
    own = gathered.chunk(ranks, dim)[_compat.rank_in(group)]
    return own.clone(memory_format=torch.contiguous_format)


def _like_own_part(gathered: torch.Tensor, dim: int, ranks: int, group: str) -> torch.Tensor:
    shape = list(gathered.shape)
    shape[dim] //= ranks
    return gathered.new_empty(shape)


library.define("own_part(Tensor gathered, int dim, int ranks, str group) -> Tensor")
library.impl("own_part", _own_part, "CompositeExplicitAutograd")
torch.library.register_fake("domino_compile::own_part", _like_own_part, lib=library)

own_part: Any = torch.ops.domino_compile.own_part.default
