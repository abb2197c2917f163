"""Equal values of the graph before, which a graph after may hold only once.

The same operation on the same operands gives the same value, unless it draws random numbers, reads
memory that nothing has written, or memory that is written in between. Such values are one value for
the checker: ``merged`` names them all after the first. What is written to later is not: two copies
of a value are two, if one of them changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from domino_compile.verify import uninitialised
from domino_compile.verify.movements import MOVES
from domino_compile.verify.plain import (
    CONSTANT,
    INPUT,
    TAKEN,
    Graph,
    Operation,
    Ref,
    is_launch,
    is_release,
    is_wait,
    replaced,
)


def equal_values(graph: Graph) -> dict[str, str]:
    """Return, for each value that an earlier one equals, the name of the first that it equals."""
    same: dict[str, str] = {}
    first: dict[Any, str] = {}
    changing = _changing(graph)
    for op in graph.operations.values():
        if _may_write(op):
            break
        if op.name in changing or not _depends_on_operands_alone(op):
            continue
        key = (op.target, *_typed(_named(op, same)), op.value)
        known = first.setdefault(key, op.name)
        if known != op.name:
            same[op.name] = known
    return same


def merged(graph: Graph, same: Mapping[str, str]) -> Graph:
    """Return a graph without the values in ``same``.

    One that is another operation in this graph, or has other operands, stays as it is.
    """
    gone: dict[str, str] = {}
    kept: dict[str, Operation] = {}
    changing, written = _changing(graph), False
    for op in graph.operations.values():
        written = written or _may_write(op)
        renamed = _renamed(op, gone)
        twin = kept.get(same.get(op.name, ""))
        stays = written or twin is None or bool(changing & {op.name, twin.name})
        if twin is not None and not stays and _are_equal(twin, renamed):
            gone[op.name] = twin.name
        else:
            kept[op.name] = renamed
    outputs = tuple(gone.get(x, x) if isinstance(x, str) else x for x in graph.outputs)
    return replace(graph, operations=kept, outputs=outputs)


def _changing(graph: Graph) -> set[str]:
    """Return the values that operations which may write take, and those that these are views of."""
    found: set[str] = set()
    todo = [x for op in graph.operations.values() if _may_write(op) for x in op.operands]
    while todo:
        name = todo.pop()
        op = graph.operations.get(name)
        if name not in found and op is not None:
            found.add(name)
            todo += op.operands if op.target in MOVES else ()
    return found


def _are_equal(first: Operation, second: Operation) -> bool:
    if not _depends_on_operands_alone(second) or first.target != second.target:
        return False
    arguments = [_typed((op.args, op.kwargs)) for op in (first, second)]
    return arguments[0] == arguments[1] and first.value == second.value


def _named(op: Operation, same: Mapping[str, str]) -> tuple[Any, Any]:
    """Return the arguments of an operation, with the first of equal operands for each."""
    if same.keys().isdisjoint(op.operands):
        return op.args, op.kwargs
    named = replaced((op.args, op.kwargs), lambda ref: _first(ref, same))
    return named[0], named[1]


def _renamed(op: Operation, same: Mapping[str, str]) -> Operation:
    """Return an operation on the first of equal operands for each; often the same."""
    args, kwargs = _named(op, same)
    unchanged = args is op.args and kwargs is op.kwargs
    return op if unchanged else replace(op, args=args, kwargs=kwargs)


def _first(ref: Ref, same: Mapping[str, str]) -> Ref:
    return Ref(same.get(ref.name, ref.name))


def _typed(argument: Any) -> Any:
    """Return an argument with the types of its numbers: 1 and 1.0 are equal, and are not."""
    if type(argument) is tuple:
        return tuple(_typed(item) for item in argument)
    return type(argument).__name__, repr(argument) if type(argument) is float else argument


def _depends_on_operands_alone(op: Operation) -> bool:
    if op.target in (INPUT, CONSTANT, *TAKEN) or op.target in uninitialised.OPERATIONS:
        return False
    return op.pure and not (is_launch(op) or is_wait(op) or is_release(op))


def _may_write(op: Operation) -> bool:
    """Return whether an operation may write to memory that others read.

    A draw of random numbers does not, and is as little pure. Names of ATen's operations that write
    end with an underscore.
    """
    if op.pure or is_launch(op) or is_wait(op):
        return False
    library, name, *overload = [*op.target.split("."), ""]
    return library not in ("aten", "prims") or name.endswith("_") or "out" in overload
