"""What torchtitan can be combined with; the example shows it with its default sequence parallelism.

Each function is a case of ``benchmarks.frameworks``, and compares with training without compiling.
"""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import torch
from _launch import compare, tokens, train
from torchtitan_llama import LENGTH, VOCABULARY, Choice, llama, train_and_compare, without_cuda

import domino_compile

FSDP = Choice(shards=2)
without_cuda()  # torchtitan looks for the device when it is imported


def titan_all_reduce(rank: int, world: int) -> None:
    """Tensor parallelism without sequence parallelism."""
    train_and_compare(world, Choice(sequence_parallel=False))


def titan_fsdp(rank: int, world: int) -> None:
    """FSDP2 over two ranks around tensor parallelism over two."""
    train_and_compare(world, FSDP)


def titan_checkpointing(rank: int, world: int) -> None:
    """Every block checkpointed whole."""
    from torchtitan.distributed.activation_checkpoint import FullAC

    train_and_compare(world, Choice(checkpointing=FullAC.Config()))


def titan_selective(rank: int, world: int) -> None:
    """Every block checkpointed, but for the operations that torchtitan chooses to save."""
    from torchtitan.distributed.activation_checkpoint import SelectiveAC

    train_and_compare(world, Choice(checkpointing=SelectiveAC.Config()))


def titan_fsdp_selective(rank: int, world: int) -> None:
    """FSDP2 around checkpointed blocks."""
    from torchtitan.distributed.activation_checkpoint import SelectiveAC

    train_and_compare(world, replace(FSDP, checkpointing=SelectiveAC.Config()))


def titan_whole(rank: int, world: int) -> None:
    """The model and its loss in one ``torch.compile``, which FSDP2's hooks break into graphs."""
    batches = tokens(3, (4, LENGTH), VOCABULARY)
    torch.manual_seed(0)
    uncut = train(llama(world, Choice()), batches)
    torch.manual_seed(0)
    with domino_compile.enable(slices=2):
        compare(uncut, train(torch.compile(llama(world, Choice())), batches))


def titan_spmd_types(rank: int, world: int) -> None:
    """Torchtitan's default description of tensor parallelism."""
    from torchtitan.config import ParallelismConfig
    from torchtitan.distributed import ParallelDims
    from torchtitan.distributed.utils import get_spmd_context, set_spmd_backend

    set_spmd_backend("spmd_types")
    parallelism = ParallelismConfig(tensor_parallel_degree=world, data_parallel_shard_degree=1)
    dims = ParallelDims.from_config(parallelism, world)
    one = mock.patch.object(ParallelDims, "from_config", lambda *_: dims)  # it compares meshes
    with one, get_spmd_context(parallel_dims=dims)():
        train_and_compare(world, Choice(spmd="spmd_types"))


def titan_flex(rank: int, world: int) -> None:
    """FlexAttention as a CPU can train it: not compiled, and without torch's refusal."""
    from torch.nn.attention import flex_attention as flex
    from torchtitan.models.common import attention

    with (
        mock.patch.object(flex, "_validate_device", lambda *_: None),
        mock.patch.object(attention, "_compiled_create_block_mask", flex.create_block_mask),
        mock.patch.object(attention.FlexAttention, "_compiled_flex_attn", flex.flex_attention),
    ):
        train_and_compare(world, Choice(flex=True))
