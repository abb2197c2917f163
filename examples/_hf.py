"""Shared by the Hugging Face examples: a small checkpoint that every rank loads."""

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

warnings.filterwarnings("ignore", module="transformers")
logging.set_verbosity_error()
logging.disable_progress_bar()

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32,
}


def small_llama() -> str:
    """Return the folder of a small Llama's checkpoint, which stands in for one from the hub."""
    return checkpoint(LlamaForCausalLM, LlamaConfig(**SIZES))


def checkpoint(model_class: type[PreTrainedModel], config: PretrainedConfig) -> str:
    """Save a model with random weights on rank 0, and tell all ranks where."""
    shared = [""]
    if dist.get_rank() == 0:
        shared = [tempfile.mkdtemp(prefix="domino_example_")]
        torch.manual_seed(0)
        model_class(config).save_pretrained(shared[0])
    dist.broadcast_object_list(shared)
    return shared[0]


@contextmanager
def accelerate_sees_one_rank() -> Iterator[None]:
    """Hide from accelerate that there are other ranks: on CPUs it refuses tensor parallelism.

    On GPUs leave this out: there accelerate handles a model that was loaded with a `tp_plan`.
    """
    from accelerate.state import AcceleratorState

    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield
    finally:
        os.environ |= hidden
