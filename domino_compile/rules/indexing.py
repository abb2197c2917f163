"""Embedding, gather, scatter and advanced indexing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from domino_compile.axes import WHOLE, Chunks, Size, Sliced, States
from domino_compile.axes.sizes import same
from domino_compile.rules.call import Call, Cut, Emit, Expand, Operand, Outcome, Refusal
from domino_compile.rules.pointwise import broadcast_state
from domino_compile.rules.rule import family
from domino_compile.rules.shape import normal

aten = torch.ops.aten
Args = tuple[Any, ...]


def embedding(call: Call) -> Outcome:
    """Cut ``embedding``: cut indices look up rows of a whole table."""
    table, indices = call.operands
    if indices.sliced is None:
        if table.sliced is None or table.sliced.dim != 1:
            return Refusal("the rows of the table are cut")
        return Cut((table.sliced, WHOLE), Sliced(indices.rank, table.sliced.outer))
    return Cut((WHOLE, indices.sliced), indices.sliced)


def pull_embedding(call: Call, want: Sliced) -> Outcome:
    """Make rows of the result from the matching indices."""
    indices = call.operands[1]
    if want.dim >= indices.rank:
        return Refusal("the columns of the table are wanted cut")
    return Cut((WHOLE, want), want)


def gather(call: Call) -> Outcome:
    """Cut ``gather(x, dim, index)`` or ``scatter(x, dim, index, src)`` beside ``dim``."""
    lead = next(call.cut_operands())
    assert lead.sliced is not None
    if normal(call.arg(1, "dim"), lead.rank) == lead.sliced.dim:
        return Refusal("gathers along the cut dimension")
    if any(
        x.rank != lead.rank or x.shape[lead.sliced.dim] != lead.shape[lead.sliced.dim]
        for x in call.operands
    ):
        return Refusal("operands have different extents along the cut dimension")
    return Cut(tuple(lead.sliced for _ in call.operands), lead.sliced)


def index_select(call: Call) -> Outcome:
    """Cut ``index_select(x, dim, index)``."""
    x, index = call.operands
    dim = normal(call.arg(1, "dim"), x.rank)
    if x.sliced is not None and x.sliced.dim != dim:
        return Cut((x.sliced, WHOLE), x.sliced)
    if x.sliced is None and index.sliced is not None:
        return Cut((WHOLE, index.sliced), Sliced(dim, index.sliced.outer))
    return Refusal("selects along the cut dimension")


@dataclass(frozen=True)
class Layout:
    """The arrangement of dimensions in ``x[indices]``.

    The indices are broadcast to one *block* of ``block`` dimensions. It replaces the indexed
    dimensions if these are adjacent; otherwise it comes first. The other dimensions are kept.

    Attributes:
        given: The indices that are not ``None``.
        start: Where the block begins in the result.
        block: The rank of the block.
        kept: The dimensions of ``x`` that are not indexed, in order.
    """

    given: tuple[Operand, ...]
    start: int
    block: int
    kept: tuple[int, ...]

    @property
    def rank(self) -> int:
        """The rank of the result."""
        return self.block + len(self.kept)

    def place(self, dim: int) -> int:
        """Return the position of the kept dimension ``dim`` of ``x`` in the result."""
        place = self.kept.index(dim)
        return place if place < self.start else place + self.block

    def kept_at(self, place: int) -> int:
        """Return the kept dimension of ``x`` that is at ``place`` in the result."""
        return self.kept[place if place < self.start else place - self.block]

    def in_block(self, place: int) -> bool:
        """Return whether ``place`` in the result belongs to the block."""
        return self.start <= place < self.start + self.block


def layout_of(x: Operand, indices: Sequence[Operand | None]) -> Layout | Refusal:
    """Return the layout of ``x[indices]``, for integer indices."""
    at = [d for d, index in enumerate(indices) if index is not None]
    given = tuple(index for index in indices if index is not None)
    if any(i.dtype in (torch.bool, torch.uint8) for i in given):
        return Refusal("a mask selects a number of elements that depends on data")
    adjacent = at == list(range(at[0], at[-1] + 1))
    kept = tuple(d for d in range(x.rank) if d not in at)
    return Layout(given, at[0] if adjacent else 0, max(i.rank for i in given), kept)


def block_cut(layout: Layout) -> Sliced | None:
    """Return how the indices cut the result, or ``None`` if none of them is cut."""
    cut = next((i for i in layout.given if i.sliced is not None), None)
    if cut is None or cut.sliced is None:
        return None
    return Sliced(layout.start + cut.sliced.dim + layout.block - cut.rank, cut.sliced.outer)


def index_states(layout: Layout, out: Sliced) -> tuple[States, ...]:
    """Return the states of the indices for a result cut inside the block."""
    inner = Sliced(out.dim - layout.start, out.outer)
    return tuple(broadcast_state(i, inner, layout.block) for i in layout.given)


def index_cut(x: Operand, layout: Layout) -> tuple[Sliced, tuple[States, ...]] | Refusal:
    """Return the state of ``x[indices]``, and the required states of ``x`` and the indices."""
    out = block_cut(layout)
    if out is not None:
        return out, (WHOLE, *index_states(layout, out))
    if x.sliced is None:
        return Refusal("neither the indexed value nor an index is cut")
    if x.sliced.dim not in layout.kept:
        return Refusal("indexes the cut dimension")
    out = Sliced(layout.place(x.sliced.dim), x.sliced.outer)
    return out, (x.sliced, *(WHOLE for _ in layout.given))


@dataclass(frozen=True)
class OwnRows:
    """An indexing of every row of a tensor by the row's own number, beside other indices.

    Attributes:
        dim: The dimension of the tensor that the numbers index.
        count: The numbers, 0, 1, 2, ...
        place: The dimension of the result that has one entry for each row.
    """

    dim: int
    count: Operand
    place: int

    def states(self, layout: Layout, outer: Size) -> tuple[States, ...]:
        """Return the states of the indices; each slice takes the first of the whole's numbers."""
        others = index_states(layout, Sliced(self.place, outer))
        given = zip(layout.given, others, strict=True)
        return tuple(WHOLE if i is self.count else state for i, state in given)

    def expand(self, call: Call) -> Expand:
        """Return how a slice is made: its rows are numbered from zero."""
        extent, along = self.count.shape[self.count.counts or 0], self.count.counts

        def one(emit: Emit, args: Args, kwargs: dict[str, Any], chunks: Chunks, i: int) -> Any:
            x, indices, *rest = args
            numbers = list(indices)
            rows = chunks.part_of(extent, i)
            numbers[self.dim] = emit(aten.slice.Tensor, numbers[self.dim], along, 0, rows)
            return emit(call.op, x, numbers, *rest, **kwargs)

        return one


def own_rows(
    x: Operand, dim: int, indices: Sequence[Operand | None], layout: Layout
) -> OwnRows | None:
    """Return how ``x[arange(N), j]`` takes something from each row of ``x``, if it does.

    Args:
        x: The indexed tensor.
        dim: The dimension whose entries are the rows.
        indices: An index or ``None`` for each dimension; the last ones may be missing.
        layout: The layout of ``x[indices]``.
    """
    count = indices[dim] if dim < len(indices) else None
    if count is None or count.counts is None or x.shape[dim] == 1:
        return None
    if not same(count.shape[count.counts], x.shape[dim]):
        return None
    return OwnRows(dim, count, layout.start + layout.block - count.rank + count.counts)


def index(call: Call) -> Outcome:
    """Cut ``x[i, j, ...]``: in the indices, with ``x`` whole, or in ``x`` beside them, or in both.

    It is cut in both if each row of ``x`` is indexed by its own number.
    """
    x = call.operands[0]
    indices = call.arg(1, "indices")
    layout = layout_of(x, indices)
    if isinstance(layout, Refusal):
        return layout
    rows = own_rows(x, x.sliced.dim, indices, layout) if x.sliced is not None else None
    if rows is not None and x.sliced is not None:
        out = Sliced(rows.place, x.sliced.outer)
        given = rows.states(layout, out.outer)
        return Cut((x.sliced, *given), out, expand=rows.expand(call))
    states = index_cut(x, layout)
    return states if isinstance(states, Refusal) else Cut(states[1], states[0])


def masked_index(call: Call) -> Outcome:
    """Cut ``_unsafe_masked_index(x, mask, indices, fill)``: ``where(mask, x[indices], fill)``."""
    x, mask = call.operands[:2]
    layout = layout_of(x, call.args[2])
    if isinstance(layout, Refusal):
        return layout
    states = index_cut(x, layout)
    if isinstance(states, Refusal):
        if mask.sliced is None or x.sliced is not None:
            return states
        out = Sliced(mask.sliced.dim + layout.rank - mask.rank, mask.sliced.outer)
        if not layout.in_block(out.dim):
            return Refusal("only the mask is cut")
        states = out, (WHOLE, *index_states(layout, out))
    out, (x_state, *rest) = states
    return Cut((x_state, broadcast_state(mask, out, layout.rank), *rest), out)


def index_put(call: Call) -> Outcome:
    """Cut ``index_put(x, indices, values, accumulate)``."""
    x, *given, values = call.operands
    if len(given) == 1 and given[0].dtype is torch.bool:
        return fill_where(x, call.arg(1, "indices").index(given[0]), given[0], values)
    indices = call.arg(1, "indices")
    layout = layout_of(x, indices)
    if isinstance(layout, Refusal):
        return layout
    return put_in_rows(call, indices, layout) or put(
        x, layout, (values,), bool(call.arg(3, "accumulate", False))
    )


def put_in_rows(call: Call, indices: Sequence[Operand | None], layout: Layout) -> Cut | None:
    """Return the cut of a write into each row of ``x``, if the rows are what is cut."""
    x, *_, values = call.operands
    for dim in range(x.rank) if x.sliced is None else (x.sliced.dim,):
        rows = own_rows(x, dim, indices, layout)
        out = x.sliced or block_cut(layout) or pushed(values, layout)
        if rows is None or out is None or (x.sliced is None and out.dim != rows.place):
            continue
        out = Sliced(rows.place, out.outer)
        given = rows.states(layout, out.outer)
        state = Sliced(dim, out.outer)
        inputs = (state, *given, broadcast_state(values, out, layout.rank))
        return Cut(inputs, state, expand=rows.expand(call))
    return None


def pushed(values: Operand, layout: Layout) -> Sliced | None:
    """Return how written values cut ``x[indices]``, to whose shape they are broadcast."""
    if values.sliced is None:
        return None
    return Sliced(values.sliced.dim + layout.rank - values.rank, values.sliced.outer)


def fill_where(x: Operand, at: int, mask: Operand, values: Operand) -> Outcome:
    """Cut ``x[..., mask] = v`` as a ``where`` on the dimensions ``at, ...`` that the mask covers.

    That is correct if ``v`` is the same for all elements that the mask selects: if the dimension
    that counts them has extent 1 in ``v``, or is missing.
    """
    rank = x.rank - mask.rank + 1
    along = at - (rank - values.rank)
    if along >= 0 and values.shape[along] != 1:
        return Refusal("a mask selects a number of elements that depends on data")
    state = x.sliced
    if state is None and mask.sliced is not None:
        state = Sliced(mask.sliced.dim + at, mask.sliced.outer)
    if state is None:
        return Refusal("only the written values are cut")
    if at <= state.dim < at + mask.rank:
        return Cut((state, Sliced(state.dim - at, state.outer), WHOLE), state)
    place = state.dim if state.dim < at else state.dim - mask.rank + 1
    return Cut((state, WHOLE, broadcast_state(values, Sliced(place, state.outer), rank)), state)


def masked_index_put(call: Call) -> Outcome:
    """Cut ``_unsafe_masked_index_put_accumulate(x, mask, indices, values)``.

    It is ``index_put`` of ``where(mask, values, 0)``: mask and values are broadcast to each other.
    """
    x, mask, *_, values = call.operands
    layout = layout_of(x, call.args[2])
    if isinstance(layout, Refusal):
        return layout
    outcome = put(x, layout, (mask, values), accumulate=True)
    if isinstance(outcome, Refusal):
        return outcome
    x_state, *rest, mask_state, value_state = outcome.inputs
    inputs = (x_state, mask_state, *rest, value_state)
    return Cut(inputs, outcome.out, chain=outcome.chain)


def put(x: Operand, layout: Layout, values: Sequence[Operand], accumulate: bool) -> Outcome:
    """Cut a write into ``x[indices]``; the states are in the order ``x``, indices, values.

    If the cut is beside the indexed dimensions, each slice of ``x`` is written separately. If it is
    inside them (the embedding's backward), ``x`` is whole and the slices accumulate into the same
    tensor one after another, so no slice needs a copy.
    """
    out = block_cut(layout)
    if x.sliced is not None and x.sliced.dim in layout.kept:
        out = Sliced(layout.place(x.sliced.dim), x.sliced.outer)
    for value in values:
        out = out or pushed(value, layout)
    if out is None:
        return Refusal("writes along the cut dimension")
    value_states = tuple(broadcast_state(v, out, layout.rank) for v in values)
    if not layout.in_block(out.dim):
        state = Sliced(layout.kept_at(out.dim), out.outer)
        return Cut((state, *(WHOLE for _ in layout.given), *value_states), state)
    if x.sliced is not None:
        return Refusal("writes along the cut dimension")
    if not accumulate:
        return Refusal("writes without accumulating")
    return Cut((WHOLE, *index_states(layout, out), *value_states), WHOLE, chain=0)


def embedding_backward(call: Call) -> Outcome:
    """Refuse to cut ``embedding_dense_backward``: its input gradients are joined.

    Joining the gradients moves less than summing partial table gradients, because the table is
    usually the larger tensor.
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
            aten.scatter.reduce,
            aten.scatter.value_reduce,
            aten.scatter_add.default,
            aten.scatter_reduce.two,
        ),
    ),
    **family("index_select", index_select, (aten.index_select.default,)),
    **family("index", index, (aten.index.Tensor, aten._unsafe_index.Tensor)),
    **family("index_put", index_put, (aten.index_put.default, aten._unsafe_index_put.default)),
    **family("index_put", masked_index_put, (aten._unsafe_masked_index_put_accumulate.default,)),
    **family("index", masked_index, (aten._unsafe_masked_index.default,)),
    **family("embedding backward", embedding_backward, (aten.embedding_dense_backward.default,)),
}
