"""What torchtitan can be combined with; the example shows it with its default sequence parallelism.

Each function is a case of ``benchmarks.frameworks``, and compares with training without compiling.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import torch
from _launch import compare, tokens, train
from torchtitan_llama import (
    LENGTH,
    VOCABULARY,
    Choice,
    described,
    filled,
    llama,
    train_and_compare,
    without_cuda,
)

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


def titan_pipeline(rank: int, world: int) -> None:
    """Two pipeline stages, 1F1B, each tensor-parallel over two ranks."""
    choice = Choice(stages=2)
    uncut = train_stages(world, choice)
    with domino_compile.enable(slices=2):
        torch.testing.assert_close(
            train_stages(world, replace(choice, compiled=True)), uncut, rtol=1e-4, atol=1e-5
        )


def train_stages(world: int, choice: Choice) -> list[float]:
    """Train with torchtitan's pipeline; return the losses, which only the last stage knows."""
    from torchtitan.components.loss import cross_entropy_loss
    from torchtitan.models.llama3 import parallelize_llama, pipeline_llm

    def loss_of(logits: torch.Tensor, following: torch.Tensor) -> tuple[torch.Tensor, None]:
        found = cross_entropy_loss(logits, following, global_vocab_size=VOCABULARY)
        return found / following.numel(), None

    config, spread = described(world, choice)
    with torch.device("meta"):
        model = config.build()
    made = {"device": torch.device("cpu"), "model_config": config, "loss_fn": loss_of}
    schedule, (part,), first, last = pipeline_llm(
        model, **spread, **made, parallelize_fn=parallelize_llama
    )
    torch.manual_seed(0)
    filled(part)
    optimiser = torch.optim.Adam(part.parameters(), lr=1e-2)
    losses = []
    for text, following in tokens(3, (8, LENGTH), VOCABULARY):
        optimiser.zero_grad()
        found: list[torch.Tensor] = []
        positions = torch.arange(LENGTH).expand_as(text).contiguous()
        given = (text,) if first else ()
        wanted = {"target": following, "losses": found} if last else {}
        schedule.step(*given, **wanted, positions=positions)
        optimiser.step()
        losses += [torch.stack(found).mean().item()] if last else []
    return losses


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
    with spmd_types(world):
        train_and_compare(world, Choice(spmd="spmd_types"))


@contextmanager
def spmd_types(world: int) -> Iterator[None]:
    """Let torchtitan describe tensor parallelism over all ranks by ``spmd_types``."""
    from torchtitan.config import ParallelismConfig
    from torchtitan.distributed import ParallelDims
    from torchtitan.distributed.utils import get_spmd_context, set_spmd_backend

    set_spmd_backend("spmd_types")
    parallelism = ParallelismConfig(tensor_parallel_degree=world, data_parallel_shard_degree=1)
    dims = ParallelDims.from_config(parallelism, world)
    one = mock.patch.object(ParallelDims, "from_config", lambda *_: dims)  # it compares meshes
    with one, get_spmd_context(parallel_dims=dims)():
        yield


def titan_flex(rank: int, world: int) -> None:
    """FlexAttention, torchtitan's default."""
    with flex_on_cpu():
        train_and_compare(world, Choice(flex=True))


@contextmanager
def flex_on_cpu() -> Iterator[None]:
    """Let a CPU train FlexAttention: not compiled by itself, and without torch's refusal."""
    from torch.nn.attention import flex_attention as flex
    from torchtitan.models.common import attention

    with (
        mock.patch.object(flex, "_validate_device", lambda *_: None),
        mock.patch.object(attention, "_compiled_create_block_mask", flex.create_block_mask),
        mock.patch.object(attention.FlexAttention, "_compiled_flex_attn", flex.flex_attention),
    ):
        yield
