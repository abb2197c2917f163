"""FlexAttention, forward and backward: attention with a score and a mask given as functions.

    score = score_mod(q[b, h, i] @ k[b, h, j] * scale, b, h, i, j)
    out[b, h, i] = softmax_j(score where mask_mod(b, h, i, j), else -inf) @ v[b, h]

Batch rows are independent, so the cut runs along dimension 0 of queries, keys, values, results and
gradients. The row number ``b``, which both functions get, needs care: in slice ``i`` it counts from
that slice's first row. A function that does not use it is the same for all slices. A function that
only uses it to look up its row of a captured tensor, such as ``documents`` in ``documents[b, i] ==
documents[b, j]``, stays correct if that tensor is cut along the dimension that ``b`` indexes. Any
other use is refused.

The tensors of a block mask list the blocks that are not empty: ``(B or 1, heads or 1, ...)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any

import torch
from torch import fx

from domino_compile._compat.operators import flex_attention, flex_attention_backward
from domino_compile.axes import WHOLE, PerSlice, Size, Sliced, State, States
from domino_compile.axes.sizes import same
from domino_compile.rules.call import Call, Cut, Function, Operand, Outcome, Refusal, Subgraph
from domino_compile.rules.rule import family

aten = torch.ops.aten
prims = torch.ops.prims

#: The positions of the lists of blocks in a block mask, after the two sequence lengths.
BLOCK_LISTS = slice(2, 10)
#: The first gradient of a tensor that ``score_mod`` captures, after those of its five arguments.
GRADIENTS = 5
#: Operations that do not change the value of a row number.
CASTS = (prims.convert_element_type.default, aten._to_copy.default, aten.clone.default)


def forward(call: Call) -> Outcome:
    """Cut ``flex_attention(q, k, v, score_mod, block_mask, scale, options, *captured)``."""
    rows = _operands(call.args[:3])
    score_mod, block_mask, captured = call.args[3], call.args[4], call.args[7:9]
    return _by_rows(call, rows, block_mask, (("score_mod", score_mod, 1),), captured)


def backward(call: Call) -> Outcome:
    """Cut ``flex_attention_backward(q, k, v, out, lse, ...)``.

    The remaining arguments are the gradients of ``out`` and ``lse``, ``score_mod`` and its
    gradient, and then the other arguments of ``flex_attention``.
    """
    rows = _operands(call.args[:7])
    score_mod, gradient, block_mask, captured = *call.args[7:10], call.args[12:14]
    if any(not same(x.shape[0], rows[0].shape[0]) for x in rows):
        return Refusal("the gradient of keys that all rows share is summed over the batch")
    if not isinstance(gradient, Subgraph) or any(_results_of(gradient)[GRADIENTS:]):
        return Refusal("the gradient of a captured tensor of score_mod is summed over the batch")
    functions = (("score_mod", score_mod, 1), ("the gradient of score_mod", gradient, 1))
    return _by_rows(call, rows, block_mask, functions, captured)


def _by_rows(
    call: Call,
    rows: Sequence[Operand],
    block_mask: Sequence[Any],
    scores: Sequence[tuple[str, Any, int]],
    captured: Sequence[Sequence[Any]],
) -> Outcome:
    """Cut dimension 0 of ``rows``, and the tensors that the functions index by row number.

    Args:
        call: The attention.
        rows: The tensors with a batch dimension, the queries first.
        block_mask: The lists of blocks, followed by the function ``mask_mod``.
        scores: The functions of the scores, each with its name and the position of ``b``.
        captured: The values that the functions of the scores capture, and those of ``mask_mod``.
    """
    batch = rows[0].shape[0]
    wanted: dict[int, States] = {}
    lists = _operands(block_mask[BLOCK_LISTS])
    cut = next((x.sliced for x in (*rows, *lists) if _is_batch(x, batch)), None)
    if cut is None:
        return Refusal("attention is cut along a dimension other than the batch")
    if len(lists) < len(_operands(block_mask)):
        return Refusal("the block mask fixes the order in which all rows are computed")
    for x in (*rows, *lists):
        if not (same(x.shape[0], batch) or same(x.shape[0], 1)):
            return Refusal("queries and keys, or the block mask, have different batch extents")
        wanted[x.index] = cut if same(x.shape[0], batch) else WHOLE
    functions = [(*score, captured[0]) for score in scores]
    functions.append(("mask_mod", block_mask[-1], 0, captured[1]))
    for name, function, position, values in functions:
        tables = lookups(name, function, position, values, cut, batch)
        if isinstance(tables, Refusal):
            return tables
        for index, state in tables:
            if wanted.setdefault(index, state) != state:
                return Refusal(f"{name} looks up rows in a tensor that it also uses otherwise")
    inputs = tuple(wanted.get(x.index, WHOLE) for x in call.operands)
    takes = tuple(
        Function(tuple(x.index if isinstance(x, Operand) else None for x in values))
        for *_, values in functions
    )
    return Cut(inputs, _states_of_results(call.out, batch, cut), functions=takes)


def lookups(
    name: str, function: Any, position: int, captured: Sequence[Any], cut: Sliced, batch: Size
) -> list[tuple[int, States]] | Refusal:
    """Return the captured tensors that a function uses, each with the state it must have.

    Args:
        name: The function's name, for messages.
        function: The function's graph. Its arguments are scores and gradients, the numbers of the
            row, the head, the query and the key, and the captured values.
        position: The position of the row number among its arguments.
        captured: The captured values, which are its last arguments.
        cut: How the rows are cut.
        batch: The number of rows.
    """
    if not isinstance(function, Subgraph):
        return Refusal(f"the graph of {name} is not known")
    inputs = function.inputs
    rows = set(_casts(inputs[position]))
    looked_up: set[fx.Node] = set()
    states: list[tuple[int, States]] = []
    for table, operand in zip(inputs[len(inputs) - len(captured) :], captured, strict=True):
        if not isinstance(operand, Operand) or not table.users:
            continue
        dims = {user: _indexed_by(user, table, rows) for user in table.users}
        looked_up.update(user for user, dim in dims.items() if dim is not None)
        (dim, *others) = set(dims.values())
        if dim is None and not others:
            states.append((operand.index, WHOLE))
        elif dim is not None and not others and same(operand.shape[dim], batch):
            states.append((operand.index, Sliced(dim, cut.outer)))
        else:
            return Refusal(f"{name} looks up rows in a tensor that it also uses otherwise")
    for row in rows:
        for user in row.users:
            if user not in looked_up and user not in rows:
                return Refusal(f"{name} computes with the number of the batch row ({user.target})")
    return states


def _casts(number: fx.Node) -> Iterator[fx.Node]:
    """Yield a row number and its conversions to other types."""
    yield number
    for user in number.users:
        if user.target in CASTS:
            yield from _casts(user)


def _indexed_by(user: fx.Node, table: fx.Node, rows: Set[fx.Node]) -> int | None:
    """Return the dimension of ``table`` that a row number indexes in ``user``, if exactly one."""
    if user.target is not aten.index.Tensor or user.args[0] is not table:
        return None
    indices: Any = user.args[1]
    dims = [dim for dim, index in enumerate(indices) if index in rows]
    return dims[0] if len(dims) == 1 else None


def _operands(values: Sequence[Any]) -> list[Operand]:
    return [x for x in values if isinstance(x, Operand)]


def _is_batch(x: Operand, batch: Size) -> bool:
    return x.sliced is not None and x.sliced.dim == 0 and same(x.shape[0], batch)


def _results_of(function: Subgraph) -> list[Any]:
    """Return a function's results: nodes, or ``None``."""
    results: Any = function.graph.output_node().args[0]
    return list(results)


def _states_of_results(shapes: Any, batch: Size, cut: Sliced) -> tuple[State, ...]:
    """Return the results' states: results with a batch dimension are cut, others are per slice."""
    return tuple(
        cut if shape and not isinstance(shape[0], tuple) and same(shape[0], batch) else PerSlice()
        for shape in shapes
    )


RULES = {
    **family("attention", forward, (flex_attention,)),
    **family("attention", backward, (flex_attention_backward,)),
}
