"""Embedding, gather, scatter and advanced indexing."""

from __future__ import annotations

from typing import Any

import torch

from domino_compile.axes import WHOLE, Sliced, States
from domino_compile.rules.call import Call, Cut, Operand, Outcome, Refusal
from domino_compile.rules.pointwise import broadcast_state
from domino_compile.rules.registry import family
from domino_compile.rules.shape import normal

aten = torch.ops.aten


def embedding(call: Call) -> Outcome:
    """Rows of a whole table, looked up by cut indices."""
    table, indices = call.operands
    if indices.sliced is None:
        if table.sliced is None or table.sliced.dim != 1:
            return Refusal("the rows of the table are cut")
        return Cut((table.sliced, WHOLE), Sliced(indices.rank, table.sliced.outer))
    return Cut((WHOLE, indices.sliced), indices.sliced)


def pull_embedding(call: Call, want: Sliced) -> Outcome:
    """Rows of the result from the indices that ask for them."""
    indices = call.operands[1]
    if want.dim >= indices.rank:
        return Refusal("the columns of the table are wanted cut")
    return Cut((WHOLE, want), want)


def gather(call: Call) -> Outcome:
    """``gather(x, dim, index)`` and ``scatter(x, dim, index, src)`` along an uncut dimension."""
    lead = next(call.cut_operands())
    assert lead.sliced is not None
    if normal(call.arg(1, "dim"), lead.rank) == lead.sliced.dim:
        return Refusal("gathers along the cut dimension")
    if any(
        x.rank != lead.rank or x.shape[lead.sliced.dim] != lead.shape[lead.sliced.dim]
        for x in call.operands
    ):
        return Refusal("operands do not extend alike along the cut dimension")
    return Cut(tuple(lead.sliced for _ in call.operands), lead.sliced)


def index_select(call: Call) -> Outcome:
    """``index_select(x, dim, index)``."""
    x, index = call.operands
    dim = normal(call.arg(1, "dim"), x.rank)
    if x.sliced is not None and x.sliced.dim != dim:
        return Cut((x.sliced, WHOLE), x.sliced)
    if x.sliced is None and index.sliced is not None:
        return Cut((WHOLE, index.sliced), Sliced(dim, index.sliced.outer))
    return Refusal("selects along the cut dimension")


def masked_index_put(call: Call) -> Outcome:
    """``_unsafe_masked_index_put_accumulate(x, mask, indices, values)``: always accumulates."""
    x, mask, *given, values = call.operands
    inner = Call(call.op, (x, call.args[2], values), {}, call.out, call.batch, (x, *given, values))
    outcome = accumulate(inner)
    if isinstance(outcome, Refusal) or mask.shape != values.shape:
        return Refusal("the mask does not follow the values")
    return Cut((outcome.inputs[0], outcome.inputs[-1], *outcome.inputs[1:]), WHOLE, chain=0)


def index_layout(call: Call) -> tuple[list[Operand | None], int, int]:
    """Per dimension of ``x`` the index or ``None``; where the indexed block is in the result; its rank."""
    indices: list[Operand | None] = list(call.arg(1, "indices"))
    at = [d for d, index in enumerate(indices) if index is not None]
    rank = max(index.rank for index in indices if index is not None)
    adjacent = at == list(range(at[0], at[-1] + 1))
    return indices, (at[0] if adjacent else 0), rank


def index(call: Call) -> Outcome:
    """``x[i, j, ...]``: either the indices are cut and ``x`` is whole, or ``x`` beside them."""
    x = call.operands[0]
    indices, start, block = index_layout(call)
    given = [i for i in indices if i is not None]
    if any(i.dtype in (torch.bool, torch.uint8) for i in given):
        return Refusal("a mask selects a number of elements that depends on data")
    cut = next((i for i in given if i.sliced is not None), None)
    if cut is not None:
        assert cut.sliced is not None
        dim = cut.sliced.dim + block - cut.rank
        wanted = Sliced(dim, cut.sliced.outer)
        rest: tuple[States, ...] = tuple(broadcast_state(i, wanted, block) for i in given)
        return Cut((WHOLE, *rest), Sliced(start + dim, wanted.outer))
    assert x.sliced is not None
    if x.sliced.dim < len(indices) and indices[x.sliced.dim] is not None:
        return Refusal("indexes the cut dimension")
    kept = [d for d in range(x.rank) if d >= len(indices) or indices[d] is None]
    place = kept.index(x.sliced.dim)
    out = place if place < start else place + block
    return Cut((x.sliced, *(WHOLE for _ in given)), Sliced(out, x.sliced.outer))


def index_put(call: Call) -> Outcome:
    """``index_put(x, indices, values, accumulate)`` into a whole value (the embedding's backward).

    Accumulating slices go one after another into the same tensor: no slice needs a copy of its own.
    """
    if not call.arg(3, "accumulate", False):
        return Refusal("writes without accumulating")
    return accumulate(call)


def accumulate(call: Call) -> Outcome:
    """The accumulating write of ``index_put(x, indices, values)``."""
    x, *given, values = call.operands
    if x.sliced is not None:
        return Refusal("writes into a cut value")
    if any(i.dtype in (torch.bool, torch.uint8) for i in given):
        return Refusal("a mask selects a number of elements that depends on data")
    _, start, block = index_layout(call)
    cut = next((i for i in given if i.sliced is not None), None)
    if cut is not None:
        assert cut.sliced is not None
        dim = cut.sliced.dim + block - cut.rank
        outer = cut.sliced.outer
    else:
        assert values.sliced is not None
        lead = values.sliced.dim - (values.rank - (x.rank - len(given) + block))
        dim, outer = lead - start, values.sliced.outer
        if not 0 <= dim < block:
            return Refusal("the values are cut beside the indexed dimensions")
    wanted = Sliced(dim, outer)
    result_rank = x.rank - len(given) + block
    states = tuple(broadcast_state(i, wanted, block) for i in given)
    value_state = broadcast_state(values, Sliced(start + dim, outer), result_rank)
    return Cut((WHOLE, *states, value_state), WHOLE, chain=0)


def embedding_backward(call: Call) -> Outcome:
    """``embedding_dense_backward``: each slice's contribution to the table's gradient, then joined.

    The gradient is joined rather than the sum taken: the table is usually the larger tensor.
    """
    del call
    return Refusal("the table's gradient is made from all rows at once")


RULES: dict[Any, Any] = {
    **family("embedding", embedding, (aten.embedding.default,), pull_embedding),
    **family(
        "gather",
        gather,
        (
            aten.gather.default,
            aten.scatter.src,
            aten.scatter.value,
            aten.scatter_add.default,
        ),
    ),
    **family("index_select", index_select, (aten.index_select.default,)),
    **family("index", index, (aten.index.Tensor, aten._unsafe_index.Tensor)),
    **family("index_put", index_put, (aten.index_put.default, aten._unsafe_index_put.default)),
    **family("index_put", masked_index_put, (aten._unsafe_masked_index_put_accumulate.default,)),
    **family("embedding backward", embedding_backward, (aten.embedding_dense_backward.default,)),
}
