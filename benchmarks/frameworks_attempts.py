"""Combinations that are not examples: most failed with some version on every backend.

Each is measured like an example, so the table shows when one begins to work.
"""

from __future__ import annotations

import torch
from _launch import tokens, train
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import parallelize_module
from torch.nn.parallel import DistributedDataParallel

OPTIONS = {"slices": 2}


def hf_checkpointing(rank: int, world: int) -> None:
    """Train a tensor-parallel Llama with every block checkpointed."""
    from _hf import small_llama
    from hf_tensor_parallel import load
    from hf_tensor_parallel import train as train_hf

    model = load(small_llama(), world)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.compile(backend="domino", options=OPTIONS)
    train_hf(model)


def hf_lora_rows(rank: int, world: int) -> None:
    """Train adapters on row-parallel layers: it already fails without compiling."""
    from _hf import small_llama
    from hf_tensor_parallel import load
    from hf_tensor_parallel import train as train_hf
    from peft import LoraConfig, get_peft_model

    layers = LoraConfig(r=4, target_modules=["o_proj", "down_proj"])
    train_hf(get_peft_model(load(small_llama(), world), layers))
    model = get_peft_model(load(small_llama(), world), layers)
    model.compile(backend="domino", options=OPTIONS)
    train_hf(model)


def hf_experts_exchanged(rank: int, world: int) -> None:
    """Exchange tokens with their experts by all-to-all, the default in training."""
    from _hf import SIZES, checkpoint
    from _launch import compare
    from hf_experts import EXPERTS
    from hf_tensor_parallel import train as train_hf
    from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
    from transformers.distributed import DistributedConfig

    folder = checkpoint(Qwen3MoeForCausalLM, Qwen3MoeConfig(**SIZES, **EXPERTS))
    parallel = DistributedConfig(tp_size=world, ep_size=world)
    uncut = train_hf(AutoModelForCausalLM.from_pretrained(folder, distributed_config=parallel))
    model = AutoModelForCausalLM.from_pretrained(folder, distributed_config=parallel)
    model.compile(backend="domino", options=OPTIONS)
    compare(uncut, train_hf(model))


def ddp_dtensor(rank: int, world: int) -> None:
    """Wrap DTensor parameters in DDP."""
    from dtensor_tp import GPT, LENGTH, PLAN, VOCABULARY

    mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("dp", "tp"))
    torch.manual_seed(0)
    model: nn.Module = GPT()
    parallelize_module(model.block, mesh["tp"], PLAN)
    model = DistributedDataParallel(model, device_mesh=mesh["dp"])
    compiled = torch.compile(model, backend="domino", options=OPTIONS)
    train(compiled, tokens(3, (4, LENGTH), VOCABULARY))


def megatron_all_reduce(rank: int, world: int) -> None:
    """Train Megatron-core's GPT without sequence parallelism."""
    from megatron_core import train_and_compare

    train_and_compare(world, sequence_parallel=False)
