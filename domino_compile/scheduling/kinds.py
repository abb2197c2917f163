"""What Inductor makes of an operation: a kernel of its own, a part of a fused one, or none."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from domino_compile import _compat
from domino_compile._compat.operators import OpOverload, prims
from domino_compile.cost.model import is_attention, is_matmul
from domino_compile.graph.collectives import is_launch, is_wait, size_hint
from domino_compile.graph.nodes import is_free
from domino_compile.rules.call import by_name
from domino_compile.rules.registry import traits_of
from domino_compile.rules.rule import Trait

aten = torch.ops.aten

#: Operations that Inductor runs as kernels of their own.
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
#: Reductions along the dimensions that their second argument names.
REDUCTIONS = {
    aten.amax.default,
    aten.amin.default,
    aten.mean.dim,
    aten.sum.dim_IntList,
    aten.var.correction,
    aten.var_mean.correction,
}
#: What Inductor writes into the kernels that use it: constants, and members of the list of seeds.
FOLDED = {aten.full.default, aten.scalar_tensor.default, prims.inductor_lookup_seed.default}


def is_anchor(node: fx.Node) -> bool:
    """Whether the node is a kernel of its own: never part of a fused group."""
    return is_launch(node) or is_matmul(node) or is_attention(node) or node.target in NEVER_FUSED


def event_kind(node: fx.Node) -> str | None:
    """What a schedule calls a node whose place in the order matters; ``None`` for other nodes."""
    if is_launch(node):
        return "launch"
    if is_wait(node):
        return "wait"
    if is_attention(node):
        return "attention"
    return "matmul" if is_matmul(node) else None


def is_work(node: fx.Node) -> bool:
    """Whether the node belongs to a unit."""
    return not is_free(node) and not is_wait(node) and not is_folded(node)


def is_folded(node: fx.Node) -> bool:
    """Whether the node is never computed by itself: only fusible operations use its value."""
    return node.target in FOLDED and all(is_fusible(user) for user in node.users)


def is_fusible(node: fx.Node) -> bool:
    """Whether the node can be part of a fused kernel."""
    return is_work(node) and not is_anchor(node) and not mutates(node)


def is_pointwise(node: fx.Node) -> bool:
    """Whether each element of a fusible node's value is made of elements alone."""
    return is_fusible(node) and bool(traits_of(node.target) & Trait.POINTWISE)


def sums_over_rows(node: fx.Node) -> bool:
    """Whether the node sums over other dimensions than the last."""
    return node.target is aten.sum.dim_IntList and bool(dims := _reduced(node)) and -1 not in dims


def reduced_width(node: fx.Node) -> int:
    """How wide the rows are that the node reduces; 0 if it reduces none."""
    if node.target not in REDUCTIONS or -1 not in _reduced(node):
        return 0
    (source,) = node.all_input_nodes
    return size_hint(source.meta["val"].shape[-1])


def _reduced(node: fx.Node) -> set[int]:
    """The dimensions that a reduction reduces, from the end."""
    (source,) = node.all_input_nodes
    rank = source.meta["val"].ndim
    dims: Any = node.args[1] if len(node.args) > 1 else None
    dims = [dims] if isinstance(dims, int) else dims
    return {dim % rank - rank for dim in (dims or range(rank))} if rank else set()


def mutates(node: fx.Node) -> bool:
    """Whether the node writes into what it is given."""
    if is_attention(node):
        return False  # FlexAttention is a higher-order operation and has no schema
    schema = getattr(node.target, "_schema", None)
    return schema is None or bool(schema.is_mutable)


def draws(node: fx.Node) -> bool:
    """Whether the node takes random numbers from a generator, so that its order matters."""
    target = node.target
    if not isinstance(target, OpOverload):
        return _compat.draws_and_saves(target)
    if torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    if not is_attention(node):
        return True
    return bool(by_name(node.target, node.args, node.kwargs).get("dropout_p", 0.0) != 0.0)
