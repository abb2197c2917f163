"""FlexAttention by structure: row ``b`` of a result is computed from row ``b`` of its operands.

    score = score_mod(q[b, h, i] @ k[b, h, j] * scale, b, h, i, j)
    out[b, h, i] = softmax_j(score where mask_mod(b, h, i, j), else -inf) @ v[b, h]

Two calls with the same functions and settings compute equal rows from equal rows, if ``b`` itself
has no other meaning to the functions: each may look its row up in a tensor that it captures
(``documents[b, i]``), and that row must be the same one then. It may do nothing else with it. The
lists of blocks of a block mask have a row for each ``b``, or one for all. No sizes occur in this,
so it holds at any.
"""

from __future__ import annotations

from typing import Any

from domino_compile.verify.plain import Graph, Operation, Ref, refs, replaced

FORWARD, BACKWARD = "higher_order.flex_attention", "higher_order.flex_attention_backward"
#: How many operands with rows come first, and where the functions, the block mask and the captured
#: values are among the arguments: of the scores' functions, and of the mask's.
ROWS = {FORWARD: 3, BACKWARD: 7}
FUNCTIONS = {FORWARD: (3,), BACKWARD: (7, 8)}
BLOCK_MASK = {FORWARD: 4, BACKWARD: 9}
CAPTURED = {FORWARD: (7, 8), BACKWARD: (12, 13)}
#: The results with rows: the output, the logarithms and the largest scores; the gradients of
#: queries, keys and values. What ``score_mod`` captures has gradients that sum over the rows.
RESULTS = 3
#: The position of ``b`` among the arguments of ``score_mod`` and its gradient, and of ``mask_mod``.
IN_SCORE, IN_MASK = 1, 0
#: Operations that leave a row number as it is.
CASTS = (
    "prims.convert_element_type.default",
    "aten._to_copy.default",
    "aten.clone.default",
    "aten.alias.default",
)
INDEX = "aten.index.Tensor"


def same_call(one: Operation, other: Operation, graphs: tuple[Graph, Graph]) -> bool:
    """Return whether two operations are the same, but for the rows of their operands.

    Args:
        one: An operation of the first graph.
        other: An operation of the second graph.
        graphs: The graphs that have the functions.
    """
    if one.target != other.target or one.target not in ROWS:
        return False
    mine, theirs = (_functions(op) for op in (one, other))
    if None in mine or None in theirs:
        return False
    bodies = [
        [_body(graph.inner.get(function.name)) for function in functions]
        for functions, graph in zip((mine, theirs), graphs, strict=True)
    ]
    settings = [_settings((op.args, op.kwargs)) for op in (one, other)]
    return None not in bodies[0] and repr([settings[0], bodies[0]]) == repr(
        [settings[1], bodies[1]]
    )


def rows_read(op: Operation, graph: Graph) -> list[tuple[str, int | None]] | None:
    """Return each operand, with the dimension along which row ``b`` is read.

    ``None`` as a dimension: it is read whole. ``None``: it is not known what is read.
    """
    *scores, mask = _functions(op)
    of_scores, of_mask = (op.args[place] for place in CAPTURED[op.target])
    read: list[tuple[str, int | None]] = [(x.name, 0) for x in refs(op.args[: ROWS[op.target]])]
    read += [(x.name, 0) for x in refs(op.args[BLOCK_MASK[op.target]][:-1])]
    uses = [(function, IN_SCORE, of_scores) for function in scores]
    for function, place, captured in [*uses, (mask, IN_MASK, of_mask)]:
        looked_up = list(refs(captured))
        if len(looked_up) != len(captured):
            return None  # numbers among the captured values
        dims = _looked_up(graph.inner[function.name], place, len(captured))
        if dims is None:
            return None
        read += [(x.name, dim) for x, dim in zip(looked_up, dims, strict=True)]
    return read


def _functions(op: Operation) -> list[Any]:
    """Return the functions that a call is given; ``None`` for one that is not a graph."""
    mask = op.args[BLOCK_MASK[op.target]][-1]
    given = [*(op.args[place] for place in FUNCTIONS[op.target]), mask]
    return [x if isinstance(x, Ref) else None for x in given]


def _settings(argument: Any) -> Any:
    return replaced(argument, lambda _: Ref(""))


def _body(graph: Graph | None) -> Any:
    """Return what a function does, with numbers for names; ``None`` if that is not known."""
    if graph is None or graph.inner:
        return None
    numbers = {name: Ref(str(place)) for place, name in enumerate(graph.operations)}
    calls = tuple(
        (op.target, *replaced((op.args, op.kwargs), lambda ref: numbers[ref.name]))
        for op in graph.operations.values()
    )
    outputs = tuple(numbers[x] if isinstance(x, str) else x for x in graph.outputs)
    return calls, outputs, tuple(name is None for name in graph.inputs), graph.single


def _looked_up(function: Graph, place: int, captured: int) -> list[int | None] | None:
    """Return the dimension of each captured tensor that the row number indexes.

    ``None``: the function does something else with the row number.
    """
    inputs = function.inputs
    tables = inputs[len(inputs) - captured :] if captured else ()
    if inputs[place] is None or None in tables:
        return None
    rows: set[str] = {str(inputs[place])}
    dims: dict[str, set[int | None]] = {str(name): set() for name in tables}
    for op in function.operations.values():
        if op.target in CASTS and op.operands[0] in rows:
            rows.add(op.name)
            continue
        indexed = _indexed(op, rows) if op.target == INDEX else None
        for number, name in enumerate(op.operands):
            if name in dims:
                dims[name].add(indexed if number == 0 else None)
        used = sum(name in rows for name in op.operands)
        if used and (indexed is None or used > 1 or op.operands[0] not in dims):
            return None
    if rows & {x for x in function.outputs if isinstance(x, str)}:
        return None
    if any(len(found) > 1 for found in dims.values()):
        return None
    return [next(iter(found), None) for found in dims.values()]


def _indexed(op: Operation, rows: set[str]) -> int | None:
    """Return the dimension that a row number indexes, if it is one of several indices."""
    places = [dim for dim, x in enumerate(op.args[1]) if isinstance(x, Ref) and x.name in rows]
    return places[0] if len(places) == 1 else None
