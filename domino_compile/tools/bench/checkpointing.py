"""Activation checkpointing of the benchmarked models, which decides what backward recomputes."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import torch
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

#: Operators whose results selective checkpointing keeps, by name: attention and reduce-scatter, as
#: in torchtitan, and all-reduce, which replaces the reduce-scatter without sequence parallelism.
#: It also keeps every second matrix product.
KEPT = (
    "aten._scaled_dot_product_efficient_attention",
    "aten._scaled_dot_product_flash_attention",
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_cudnn_attention",
    "_c10d_functional.reduce_scatter_tensor",
    "_c10d_functional.all_reduce",
)


class Checkpointing(StrEnum):
    """The kinds of checkpointing, by the names that ``--ac`` accepts."""

    NONE = "none"
    SELECTIVE = "selective"
    FULL = "full"

    def run(self, block: Callable[..., torch.Tensor], *args: Any) -> torch.Tensor:
        """Call a block so that its backward recomputes everything that is not kept.

        Args:
            block: The block to call.
            *args: Its arguments; the first is the residual stream.
        """
        if self is Checkpointing.NONE:
            return block(*args)
        extra: Any = {"context_fn": _contexts} if self is Checkpointing.SELECTIVE else {}
        result: torch.Tensor = checkpoint(block, *args, use_reentrant=False, **extra)
        return result


def _contexts() -> Any:
    """Return a new policy for each run of a block, with a fresh count of products."""
    return create_selective_checkpoint_contexts(_policy())


def _policy() -> Callable[..., CheckpointPolicy]:
    kept = {_operator(name) for name in KEPT} - {None}
    products = {False: 0, True: 0}

    def policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        del args, kwargs
        keep = operator in kept
        if operator is torch.ops.aten.mm.default:
            products[context.is_recompute] += 1
            keep = products[context.is_recompute] % 2 == 1
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    return policy


def _operator(name: str) -> Any:
    namespace, operator = name.split(".")
    packet = getattr(getattr(torch.ops, namespace), operator, None)
    return None if packet is None else packet.default
