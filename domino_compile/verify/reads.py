"""What an element of a result is computed from: which elements of which operands.

It is known for pointwise operations, collectives, products and copies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch

from domino_compile._compat.operators import OpOverload
from domino_compile.verify.interpret import resolve
from domino_compile.verify.movements import MOVES, Points
from domino_compile.verify.narrow import BITS
from domino_compile.verify.plain import Operation, Ref, Tensor, refs


@dataclass(frozen=True)
class Read:
    """Which elements of an operand an element is computed from.

    Attributes:
        name: The operand.
        dims: For each of its dimensions, the dimension of the result that has the same index;
            ``None``: all of its elements are read. Empty: the operand is broadcast to the result.
        ranks: ``own``; ``all``, which are reduced; or ``scattered``: all, the rank's own part.
    """

    name: str
    dims: tuple[int | None, ...]
    ranks: str = "own"


#: It is a movement if all blocks have one size; otherwise other ranks know which row goes where.
ALL_TO_ALL = "_c10d_functional.all_to_all_single.default"
#: Finds an operand by its name.
Find: TypeAlias = Callable[[str], Operation]


def reads_of(op: Operation, find: Find) -> list[Read] | None:
    """Return what an element of a result is computed from; ``None`` if that is not known."""
    if op.target.startswith("_c10d_functional."):
        return _collective(op)
    if is_pointwise(op.target):
        return _pointwise(op)
    if op.target in SCALED:
        return _scaled_product(op, find)
    if op.target == BITS:
        same_width = find(op.operands[0]).tensor.shape == op.tensor.shape
        return _pointwise(op) if same_width else None
    rule = ALIGNED.get(op.target)
    return None if rule is None else rule(op)


def same_rows_exchanged(after: Operation, at: Points, before: Operation, where: Points) -> bool:
    """Return whether elements of two exchanges are in rows that come from the same place.

    Where a row comes from depends on the rank, the row, and the sizes of all ranks' blocks. Every
    rank runs the same two exchanges, so that equal sizes here are equal sizes on every rank.
    """
    sizes, other = after.args[1:3], before.args[1:3]
    known = all(isinstance(size, int) for size in (*sizes[0], *sizes[1]))
    return known and bool(sizes == other) and np.array_equal(at[:2], where[:2])


@cache
def is_pointwise(target: str) -> bool:
    """Return whether an element of the result is computed from one element of each operand."""
    if target in UNTAGGED:
        return True
    overload = resolve(target)
    if not isinstance(overload, OpOverload):
        return False
    tags = overload.tags
    if torch.Tag.pointwise not in tags or torch.Tag.nondeterministic_seeded in tags:
        return False
    return [str(r.type) for r in overload._schema.returns] == ["Tensor"]


UNTAGGED = frozenset(
    {
        "aten._to_copy.default", "aten.masked_fill.Tensor", "aten.threshold_backward.default",
        "prims.convert_element_type.default", "aten.hardswish.default",
    }
)  # fmt: skip


def _pointwise(op: Operation) -> list[Read]:
    return [Read(name, ()) for name in op.operands]


def others(op: Operation) -> Any:
    """Return the arguments that are no operands; sizes are compared as shapes instead."""
    if op.target in MOVES or op.target in SIZED:
        return ()
    return _without_refs((op.args, op.kwargs))


SIZED = ("aten.native_layer_norm.default",)


def _without_refs(argument: Any) -> Any:
    if isinstance(argument, Ref):
        return Ref
    if type(argument) is tuple:
        return tuple(map(_without_refs, argument))
    return (type(argument), argument)


def _collective(op: Operation) -> list[Read] | None:
    if not isinstance(op.value, Tensor):
        return None
    dims = tuple(range(len(op.value.shape)))
    if op.target == ALL_TO_ALL:  # some row of some rank
        return [Read(op.operands[0], (None, *dims[1:]), "all")]
    how = {"all_reduce": "all", "reduce_scatter_tensor": "scattered"}.get(op.target.split(".")[1])
    return None if how is None else [Read(op.operands[0], dims, how)]


def _product(op: Operation) -> list[Read]:
    *added, left, right = op.operands
    rank = len(op.tensor.shape)
    rows, columns = rank - 2, rank - 1
    lead = tuple(range(rows))
    return [
        *(Read(name, ()) for name in added),
        Read(left, (*lead, rows, None)),
        Read(right, (*lead, None, columns)),
    ]


def _overwritten(op: Operation) -> list[Read]:
    """Return what a copy reads: nothing of the value that it overwrites."""
    return [Read(op.operands[1], ())]


ALIGNED: dict[str, Callable[[Operation], list[Read] | None]] = {
    **dict.fromkeys(
        ("aten.mm.default", "aten.bmm.default", "aten.addmm.default", "aten.baddbmm.default"),
        _product,
    ),
    "aten.copy.default": _overwritten,
}
#: Scaled products, and the names of their arguments.
SCALED = {
    "aten._scaled_mm.default": ("self", "mat2", "scale_a", "scale_b", "bias", "scale_result"),
    "aten._scaled_mm_v2.default": (
        *("self", "mat2", "scale_a", "recipe_a", "swizzle_a", "scale_b", "recipe_b", "swizzle_b"),
        "bias",
    ),
}  # fmt: skip


def _scaled_product(op: Operation, find: Find) -> list[Read] | None:
    """Return what an element of a scaled product reads: its row, its column, and their scales.

    A scale that is not of a type with a known layout (swizzled, or of several levels) is not known.
    """
    named = dict(zip(SCALED[op.target], op.args, strict=False)) | dict(op.kwargs)
    left, right = named["self"].name, named["mat2"].name
    rows, columns = op.tensor.shape
    read = [Read(left, (0, None)), Read(right, (None, 1))]
    if any((*named.get("swizzle_a", ()), *named.get("swizzle_b", ()))):
        return None
    for name, mine, extent in (("scale_a", 0, rows), ("scale_b", 1, columns)):
        given = list(refs(named[name]) if isinstance(named[name], tuple) else [named[name]])
        dims = _of_scale(find(given[0].name).tensor, mine, extent)
        if len(given) != 1 or dims is None:
            return None
        read.append(Read(given[0].name, dims))
    if (bias := named.get("bias")) is not None:
        read.append(Read(bias.name, (1,)))
    if (over := named.get("scale_result")) is not None:
        read.append(Read(over.name, (None,) * len(find(over.name).tensor.shape)))
    return read


def _of_scale(scale: Tensor, mine: int, extent: int) -> tuple[int | None, ...] | None:
    """Return which elements of a scale are read, for rows (0) or columns (1) of the result."""
    if math.prod(scale.shape) == 1:
        return (None,) * len(scale.shape)
    if len(scale.shape) != 2 or scale.dtype != "float32" or scale.shape[mine] != extent:
        return None
    return (0, None) if mine == 0 else (None, 1)
