"""How Inductor compiles an operation: as a separate kernel, part of a fused one, or none."""

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
#: Operations that Inductor inlines into the kernels that use them: constants, and lookups of seeds.
FOLDED = {aten.full.default, aten.scalar_tensor.default, prims.inductor_lookup_seed.default}


def is_anchor(node: fx.Node) -> bool:
    """Return whether the node is a separate kernel, never part of a fused group."""
    return is_launch(node) or is_matmul(node) or is_attention(node) or node.target in NEVER_FUSED


def event_kind(node: fx.Node) -> str | None:
    """Return the name for a node whose place in the order matters; ``None`` for other nodes."""
    if is_launch(node):
        return "launch"
    if is_wait(node):
        return "wait"
    if is_attention(node):
        return "attention"
    return "matmul" if is_matmul(node) else None


def is_work(node: fx.Node) -> bool:
    """Return whether the node belongs to a unit."""
    return not is_free(node) and not is_wait(node) and not is_folded(node)


def is_folded(node: fx.Node) -> bool:
    """Return whether the node is inlined everywhere: only fusible operations use its value."""
    return node.target in FOLDED and all(is_fusible(user) for user in node.users)


def is_fusible(node: fx.Node) -> bool:
    """Return whether the node can be part of a fused kernel."""
    return is_work(node) and not is_anchor(node) and not mutates(node)


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
    if is_attention(node):
        return False  # FlexAttention is a higher-order operation and has no schema
    schema = getattr(node.target, "_schema", None)
    return schema is None or bool(schema.is_mutable)


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
