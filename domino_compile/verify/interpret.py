"""Runs operations on small tensors in float64, for all ranks of a group at once.

A value is a list with one entry for each rank. Collectives are done by hand; attention kernels that
exist on GPUs only (``kernels``) and products of float8 (``narrow``) are replaced by their
definition; everything else is torch's own operation on a CPU.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, TypeAlias

import torch

from domino_compile._compat.operators import OpOverload
from domino_compile.verify import kernels, narrow, uninitialised
from domino_compile.verify.dealing import arrangements, arrivals
from domino_compile.verify.plain import (
    ARRANGE,
    CONSTANT,
    EXCHANGE,
    GETITEM,
    INPUT,
    OWN_PART,
    Graph,
    Operation,
    Ref,
    replaced,
)
from domino_compile.verify.transported import STARTS, command_of

Ranks: TypeAlias = list[Any]
#: What views are run as: the strides here are not those of the compiled program.
AS_RESHAPE = "aten.reshape.default"
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
KERNELS = {**kernels.KERNELS, **narrow.KERNELS}


class Unknown(Exception):
    """Something cannot be run here; it says what."""


@cache
def resolve(target: str) -> Any:
    """Return the operation with a name; ``None`` if there is none."""
    if target.startswith("_operator."):
        return getattr(operator, target.split(".", 1)[1], None)
    operation: Any = torch.ops
    for part in target.split("."):
        operation = getattr(operation, part, None)
        if operation is None:
            return None
    return operation


def run(operations: Iterable[Operation], env: dict[str, Ranks], graph: Graph, ranks: int) -> None:
    """Run operations in order; ``env`` has their operands and gets their results.

    Raises:
        Unknown: An operation cannot be run.
    """
    for op in operations:
        env[op.name] = _run(op, env, graph, ranks)


def _run(op: Operation, env: Mapping[str, Ranks], graph: Graph, ranks: int) -> Ranks:
    if op.target.startswith("_c10d_functional."):
        return _collective(op, env, ranks)
    if command := command_of(op.target):
        values = env[op.args[0].name]
        return _started(command, values, ranks) if command in STARTS else values
    if op.target == OWN_PART:
        values, dim = env[op.args[0].name], op.args[1]
        return [value.chunk(ranks, dim)[rank] for rank, value in enumerate(values)]
    if op.target in (EXCHANGE, ARRANGE):
        return _tokens(op, env[op.args[0].name])
    if op.target == CONSTANT:
        if op.name not in graph.inner:
            raise Unknown(f"the constant {op.name} is not at hand")
        return [_callable(graph.inner[op.name])] * ranks
    results = []
    for rank in range(ranks):

        def of_rank(ref: Ref, rank: int = rank) -> Any:
            return env[ref.name][rank]

        args, kwargs = replaced((op.args, op.kwargs), of_rank)
        if op.target == GETITEM:
            results.append(args[0][args[1]])
        elif op.target == narrow.BITS:
            results.append(_bits(op, args[0], graph))
        else:
            results.append(_call(op, args, dict(kwargs)))
    return results


def _tokens(op: Operation, values: Ranks) -> Ranks:
    """Return what each rank has after an exchange of tokens, or after they were put in order."""
    if sum(op.args[1]) != values[0].shape[0]:
        raise Unknown(f"{op.name} exchanges other tokens than there are")
    if op.target == ARRANGE:
        return [value[order] for value, order in zip(values, arrangements(op), strict=True)]
    stacked = torch.stack(values)
    return [stacked[tuple(sources)] for sources in arrivals(op)]


def _bits(op: Operation, value: torch.Tensor, graph: Graph) -> torch.Tensor:
    source = graph.operations[op.operands[0]].tensor.dtype
    return narrow.bits(value, source, op.tensor.dtype)


def _call(op: Operation, args: Any, kwargs: dict[str, Any]) -> Any:
    name = AS_RESHAPE if op.target == "aten.view.default" else op.target
    target: Any = KERNELS.get(name) or resolve(name)
    if target is None:
        raise Unknown(f"{op.target} is not known here")
    if isinstance(target, OpOverload):
        args = _as_lists(args)
    args, kwargs = _in_double(args), _in_double(kwargs)
    try:
        made = target(*args, **kwargs)
        if op.target in uninitialised.OPERATIONS:
            made = uninitialised.anything(made)
        return narrow.as_declared(made, op.value)
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise Unknown(f"{op.target} cannot be run: {reason[0] if reason else error!r}") from error


def _as_lists(args: Any) -> list[Any]:
    return [list(x) if type(x) is tuple else x for x in args]


def _in_double(argument: Any) -> Any:
    """Return arguments that ask for double precision, on the CPU."""
    if isinstance(argument, dict):
        return {key: _in_double(x) for key, x in argument.items()}
    if isinstance(argument, (list, tuple)):
        return type(argument)(map(_in_double, argument))
    if isinstance(argument, torch.dtype):
        narrower = argument in FLOATS or narrow.is_float8(str(argument).removeprefix("torch."))
        return torch.float64 if narrower else argument
    return torch.device("cpu") if isinstance(argument, torch.device) else argument


def _callable(graph: Graph) -> Any:
    """Return a graph as a function."""

    def call(*args: Any) -> Any:
        named = zip(graph.inputs, args, strict=True)
        env: dict[str, Ranks] = {name: [x] for name, x in named if name is not None}
        calls = [op for op in graph.operations.values() if op.target != INPUT]
        run(calls, env, graph, 1)
        made = tuple(env[x][0] if isinstance(x, str) else x for x in graph.outputs)
        return made[0] if graph.single else made

    return call


# -- collectives -----------------------------------------------------------------------------


def _collective(op: Operation, env: Mapping[str, Ranks], ranks: int) -> Ranks:
    kind = op.target.split(".")[1]
    given = op.args[0]
    if type(given) is tuple:
        made = [_one(kind, op, env[ref.name], ranks) for ref in given]
        return [tuple(values[rank] for values in made) for rank in range(ranks)]
    return _one(kind, op, env[given.name], ranks)


def _one(kind: str, op: Operation, values: Ranks, ranks: int) -> Ranks:
    kind = kind.removesuffix("_coalesced").rstrip("_")
    if kind == "wait_tensor":
        return values
    if kind == "all_reduce":
        return [_reduced(str(op.args[1]), values)] * ranks
    if kind == "broadcast":
        return [values[int(op.args[1]) % ranks]] * ranks
    if kind == "all_gather_into_tensor":
        return [torch.cat(values)] * ranks
    if kind == "reduce_scatter_tensor":
        total = _reduced(str(op.args[1]), values)
        return list(total.chunk(ranks))
    if kind == "all_to_all_single" and len({*op.args[1], *op.args[2]}) == 1:
        parts = [value.chunk(ranks) for value in values]
        return [torch.cat([part[rank] for part in parts]) for rank in range(ranks)]
    raise Unknown(f"the collective {op.target}")


def _started(start: str, values: Ranks, ranks: int) -> Ranks:
    """Return what each rank gets by the transport; an inbox has what the others have sent."""
    if start == "gather_start":
        return [torch.cat(values)] * ranks
    if start == "reduce_start":
        return [_reduced("sum", values)] * ranks
    sent = [value.chunk(ranks) if start == "scatter_start" else [value] * ranks for value in values]
    others = [
        [pieces[rank] for at, pieces in enumerate(sent) if at != rank] for rank in range(ranks)
    ]
    return [torch.stack(pieces) for pieces in others]


def _reduced(how: str, values: Ranks) -> torch.Tensor:
    stacked = torch.stack(values)
    if how in ("sum", "avg"):
        total = stacked.sum(0)
        return total / len(values) if how == "avg" else total
    if how in ("max", "min"):
        return stacked.amax(0) if how == "max" else stacked.amin(0)
    if how == "product":
        return stacked.prod(0)
    raise Unknown(f"the reduction {how}")
