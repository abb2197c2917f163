"""Samples of FlexAttention: functions that use the number of the batch row in every way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._higher_order_ops.flex_attention import flex_attention, flex_attention_backward
from torch.fx.experimental.proxy_tensor import make_fx

from tests.rules.harness import Sample
from tests.rules.samples_attention import OTHER
from tests.rules.samples_pointwise import count, real

aten = torch.ops.aten

B, H, S, D, BLOCK = 4, 2, 3, 3, 3
COMPUTES = "computes with the number of the batch row"
OTHERWISE = "looks up rows in a tensor that it also uses otherwise"
Q, K, V, GRAD = (real(B, H, S, D) - shift for shift in (0.0, 0.2, 0.4, 0.6))
DOCUMENTS = count(B, S, below=2)
SLOPES = real(H, B)


def same_score(score: Any, b: Any, h: Any, i: Any, j: Any, *_: Any) -> Any:
    """No change."""
    return score.clone()


def distance(score: Any, b: Any, h: Any, i: Any, j: Any, *_: Any) -> Any:
    """A bias by distance, the same for all rows."""
    return score + (i - j) * 0.1


def row_slope(score: Any, b: Any, h: Any, i: Any, j: Any, slopes: Any) -> Any:
    """A bias whose slope is each row's own."""
    return score + (i - j) * aten.index.Tensor(slopes, [h, b])


def row_number(score: Any, b: Any, h: Any, i: Any, j: Any, *_: Any) -> Any:
    """A bias by the number of the row itself."""
    return score + b * 0.1


def causal(b: Any, h: Any, i: Any, j: Any, *_: Any) -> Any:
    """Earlier keys only."""
    return i >= j


def same_document(b: Any, h: Any, i: Any, j: Any, documents: Any) -> Any:
    """Keys of the same document only."""
    look_up = lambda at: aten.index.Tensor(documents, [b, at])  # noqa: E731
    return (look_up(i) == look_up(j)) & (i >= j)


def other_document(b: Any, h: Any, i: Any, j: Any, documents: Any) -> Any:
    """The row's own documents against those of the first row."""
    first = aten.index.Tensor(documents, [b * 0, j])
    return (aten.index.Tensor(documents, [b, i]) == first) | (i >= j)


def later_rows(b: Any, h: Any, i: Any, j: Any, *_: Any) -> Any:
    """Another mask for later rows."""
    return (i >= j) | (b > 1)


def score() -> torch.Tensor:
    """A score to trace with."""
    return torch.tensor(0.5, dtype=torch.float64)


def numbers() -> list[torch.Tensor]:
    """The numbers of a row, a head, a query and a key, to trace with."""
    return [torch.tensor(0, dtype=torch.int32) for _ in range(4)]


def traced(function: Callable[..., Any], before: int, *captured: torch.Tensor) -> fx.GraphModule:
    """The graph of a function of ``before`` scores, four numbers, and what it captures."""
    return make_fx(function)(*(score() for _ in range(before)), *numbers(), *captured)


def gradient_of(score_mod: Callable[..., Any], *captured: torch.Tensor) -> fx.GraphModule:
    """The gradient of a function that adds to the score."""

    def gradient(score: Any, b: Any, h: Any, i: Any, j: Any, grad: Any, *values: Any) -> Any:
        # Differentiated by torch, the score of the forward is computed anew.
        unused = score_mod(score, b, h, i, j, *values)
        return [grad + 0 * unused, None, None, None, None, *(None for _ in values)]

    return make_fx(gradient)(score(), *numbers(), score(), *captured)


def block_mask(rows: int) -> list[Any]:
    """Lists of blocks for ``rows`` rows: all blocks are computed."""
    count_, blocks = S // BLOCK, torch.arange(S // BLOCK, dtype=torch.int32)
    numbers = torch.full((rows, 1, count_), count_, dtype=torch.int32)
    indices = blocks.expand(rows, 1, count_, count_).contiguous()
    return [numbers, indices, None, None, numbers.clone(), indices.clone(), None, None]


def samples(
    score_mod: Any,
    mask_mod: Any,
    rows: int = B,
    slopes: tuple[Any, ...] = (),
    documents: tuple[Any, ...] = (),
    refused: str = "",
    key_rows: int = B,
) -> list[Sample]:
    """Forward and backward with one pair of functions.

    Args:
        score_mod: changes scores.
        mask_mod: says which scores count.
        rows: the batch extent of the block mask.
        slopes: what ``score_mod`` captures.
        documents: what ``mask_mod`` captures.
        refused: why it cannot be cut; empty if it can.
        key_rows: the batch extent of keys and values.
    """
    scores, mask = traced(score_mod, 1, *slopes), traced(mask_mod, 0, *documents)
    lists = block_mask(rows)
    blocks = (S, S, *lists, BLOCK, BLOCK, mask)
    keys, values = K[:key_rows].clone(), V[:key_rows].clone()
    rest = (0.5, {}, slopes, documents)
    out, lse, _ = flex_attention(Q, keys, values, scores, blocks, *rest)
    masks = [t for t in lists if t is not None]
    given = [Q, keys, values]
    forward = Sample(
        flex_attention,
        (Q, keys, values, scores, blocks, *rest),
        **_cut([*given, *masks, *slopes, *documents], refused),
    )
    given += [out, lse, GRAD, torch.zeros_like(lse)]
    if key_rows == 1:
        refused = "keys that all rows share"
    backward = Sample(
        flex_attention_backward,
        (*given, scores, gradient_of(score_mod, *slopes), blocks, *rest),
        **_cut([*given, *masks, *slopes, *documents], refused),
    )
    return [forward, backward]


def _cut(tensors: list[torch.Tensor], refused: str) -> dict[str, Any]:
    """Dimension 0 of everything that has rows must be cut, and nothing else.

    A cut that begins at a captured tensor is followed if rows of the attention are cut by it: never
    here, since the attention's own tensors are whole then.
    """
    declared = {}
    for index, tensor in enumerate(tensors):
        attention = tensor.dim() >= 3 and tensor.shape[0] == B
        for dim in range(tensor.dim()):
            if not attention or dim > 0:
                declared[index, dim] = "" if refused else OTHER
            elif refused:
                declared[index, dim] = refused
    return {"refused": declared, "blocks_refused": declared, "exact": False}


SAMPLES = [
    samples(distance, causal, rows=1)[0],
    *samples(row_slope, same_document, slopes=(SLOPES,), documents=(DOCUMENTS,)),
    *samples(distance, causal, key_rows=1),
    samples(row_number, causal, refused=COMPUTES)[1],
    samples(same_score, later_rows, refused=COMPUTES)[0],
    samples(same_score, other_document, documents=(DOCUMENTS,), refused=OTHERWISE)[0],
]
