"""How Inductor compiles an operation: as a separate kernel, part of a fused one, or none."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import fx

from domino_compile import _compat
from domino_compile._compat.operators import HigherOrderOperator, OpOverload, prims
from domino_compile.cost.model import (
    is_attention,
    is_attention_operation,
    is_matmul,
    is_product,
)
from domino_compile.graph.collectives import LAUNCHES, WAIT, is_launch, is_wait, size_hint
from domino_compile.graph.nodes import is_free_operation
from domino_compile.rules.call import by_name
from domino_compile.rules.registry import traits_of
from domino_compile.rules.rule import Trait

aten = torch.ops.aten

#: Operations that Inductor never fuses with others.
NEVER_FUSED = {
    aten.convolution.default,
    aten.convolution_backward.default,
    aten.cumsum.default,
    aten.embedding_dense_backward.default,
    aten.index_put.default,
    aten._unsafe_index_put.default,
    aten._unsafe_masked_index_put_accumulate.default,
    aten.scatter_add.default,
    aten.sort.default,
    aten.sort.stable,
    aten.topk.default,
}
#: Reductions whose second argument names the dimensions to reduce.
REDUCTIONS = {
    aten.amax.default,
    aten.amin.default,
    aten.mean.dim,
    aten.sum.dim_IntList,
    aten.var.correction,
    aten.var_mean.correction,
}
#: Collectives that write their result into their input's buffer.
IN_PLACE = ("all_reduce", "broadcast", "all_reduce_coalesced")
#: Operations that Inductor inlines into the kernels that use them: constants, and lookups of seeds.
FOLDED = {aten.full.default, aten.scalar_tensor.default, prims.inductor_lookup_seed.default}


@dataclass(frozen=True)
class _Kind:
    """What Inductor makes of an operation, whatever its operands are.

    Attributes:
        work: Whether it computes something, or communicates.
        anchor: Whether it is a separate kernel.
        mutates: Whether it writes into one of its inputs.
        folded: Whether it is inlined into fusible operations.
    """

    work: bool
    anchor: bool
    mutates: bool
    folded: bool


@cache
def _kind_of(target: Any) -> _Kind:
    """Return the kind of an operation. Looking up its properties one by one takes long."""
    attention = is_attention_operation(target)
    schema = getattr(target, "_schema", None)
    return _Kind(
        work=not is_free_operation(target) and target is not WAIT,
        anchor=target in LAUNCHES or is_product(target) or attention or target in NEVER_FUSED,
        # FlexAttention is a higher-order operation and has no schema.
        mutates=not attention and (schema is None or bool(schema.is_mutable)),
        folded=target in FOLDED,
    )


def is_anchor(node: fx.Node) -> bool:
    """Return whether the node is a separate kernel, never part of a fused group."""
    return node.op == "call_function" and _kind_of(node.target).anchor


def event_kind(node: fx.Node) -> str | None:
    """Return the name for a node whose place in the order matters; ``None`` for other nodes."""
    if is_launch(node):
        return "launch"
    if is_wait(node):
        return "wait"
    if is_attention(node) or is_wrapped_attention(node):
        return "attention"
    return "matmul" if is_matmul(node) else None


def is_wrapped_attention(node: fx.Node) -> bool:
    """Return whether the node is attention inside the partitioner's wrapper (a recomputed one)."""
    if node.op != "call_function" or not isinstance(node.target, HigherOrderOperator):
        return False
    operation, _, _ = _compat.operation_of(node)
    return operation is not node.target and is_attention_operation(operation)


def is_work(node: fx.Node) -> bool:
    """Return whether the node belongs to a unit."""
    return node.op == "call_function" and _kind_of(node.target).work and not is_folded(node)


def is_folded(node: fx.Node) -> bool:
    """Return whether the node is inlined everywhere: only fusible operations use its value."""
    return (
        node.op == "call_function"
        and _kind_of(node.target).folded
        and all(map(is_fusible, node.users))
    )


def is_fusible(node: fx.Node) -> bool:
    """Return whether the node can be part of a fused kernel."""
    if node.op != "call_function":
        return False
    kind = _kind_of(node.target)
    return kind.work and not kind.anchor and not kind.mutates and not is_folded(node)


def is_pointwise(node: fx.Node) -> bool:
    """Return whether the node is fusible and computes each element from single elements."""
    return is_fusible(node) and bool(traits_of(node.target) & Trait.POINTWISE)


def sums_over_rows(node: fx.Node) -> bool:
    """Return whether the node sums over dimensions other than the last."""
    return node.target is aten.sum.dim_IntList and bool(dims := _reduced(node)) and -1 not in dims


def reduced_width(node: fx.Node) -> int:
    """Return the width of the rows that the node reduces; 0 if it reduces none."""
    if node.target not in REDUCTIONS or -1 not in _reduced(node):
        return 0
    (source,) = node.all_input_nodes
    return size_hint(source.meta["val"].shape[-1])


def _reduced(node: fx.Node) -> set[int]:
    """Return the reduced dimensions, counted from the end (negative)."""
    (source,) = node.all_input_nodes
    rank = source.meta["val"].ndim
    dims: Any = node.args[1] if len(node.args) > 1 else None
    dims = [dims] if isinstance(dims, int) else dims
    return {dim % rank - rank for dim in (dims or range(rank))} if rank else set()


def mutates(node: fx.Node) -> bool:
    """Return whether the node writes into one of its inputs."""
    return _kind_of(node.target).mutates


def draws(node: fx.Node) -> bool:
    """Return whether the node draws from a random number generator, so that its order matters."""
    target = node.target
    if not isinstance(target, OpOverload):
        return _compat.draws_and_saves(target)
    if torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    if not is_attention(node):
        return True
    return bool(by_name(node.target, node.args, node.kwargs).get("dropout_p", 0.0) != 0.0)
