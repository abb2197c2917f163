"""The programs of ``benchmarks.frameworks_sizes``: the examples' models at real sizes.

Each function is named like the case of ``benchmarks.frameworks`` that it enlarges. It makes the
mesh, builds the model of fake tensors, and calls it once, as the example does. Whatever compiles
with Inductor is compiled with domino, because the caller has turned the switch on.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import parallelize_module

ROWS, LENGTH = 4, 2048
WIDTH, HEADS, LAYERS, VOCABULARY = 4096, 32, 2, 128256 * 2 // 32
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 14336,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 8,
    "max_position_embeddings": LENGTH,
}
#: Why a case has no prediction.
WITHOUT: dict[str, str] = {
    "deepspeed_autotp": "its engine reads numbers while it is set up, and fake tensors have none",
    "hf_lora_rows": "the program does not run",
    "hf_experts_exchanged": "ranks read how many tokens they send, and fake tensors have none",
    "ddp_dtensor": "the program does not run",
}
#: Cases whose graphs are those of another case: what they add is outside of the graphs.
SAME_GRAPHS = {
    "titan_fsdp": "torchtitan_llama",
    "titan_fsdp_selective": "titan_selective",
    "titan_pipeline": "torchtitan_llama",
    "hf_trainer": "hf_tensor_parallel",
    "hf_accelerate": "hf_tensor_parallel",
}


@contextmanager
def bfloat16() -> Iterator[None]:
    """Make a model's tensors bfloat16."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Make tensors that have shapes but no numbers; those of a model are bfloat16."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with bfloat16(), FakeTensorMode(allow_non_fake_inputs=True):
        yield


@contextmanager
def enlarged(module: ModuleType) -> Iterator[None]:
    """Replace the sizes of an example's model, which are constants of its module."""
    known = {"VOCABULARY": VOCABULARY, "WIDTH": WIDTH, "HEADS": HEADS, "LENGTH": LENGTH}
    sizes = {name: value for name, value in known.items() if hasattr(module, name)}
    with mock.patch.multiple(module, **sizes):
        yield


def text() -> torch.Tensor:
    """Return tokens, which are also the labels: only their shape matters."""
    return torch.zeros(ROWS, LENGTH, dtype=torch.long)


# torchtitan


def titan(
    ranks: int,
    *,
    whole: bool = False,
    checkpointed: str = "",
    weights: Callable[[], AbstractContextManager[None]] = nullcontext,
    **choices: Any,
) -> None:
    """Call torchtitan's Llama 3 8B, with two of its layers; FSDP2 stays outside of its graphs.

    Args:
        ranks: The tensor-parallel ranks.
        whole: Whether to compile the model at once.
        checkpointed: The name of a policy of torchtitan's.
        weights: What the weights are made under, if not as the inputs are.
        **choices: The example's other choices.
    """
    import torchtitan_llama as example

    example.without_cuda()  # before torchtitan is imported
    import torchtitan.models.llama3 as models
    import torchtitan.models.llama3.parallelize as parallelize
    from torch._subclasses.fake_tensor import unset_fake_temporarily
    from torchtitan.distributed import ParallelDims, activation_checkpoint
    from torchtitan.protocols.module import Module

    if checkpointed:
        choices["checkpointing"] = getattr(activation_checkpoint, checkpointed).Config()
    registry = models.model_registry

    def registered(name: str, **settings: Any) -> Any:
        spec = copy.deepcopy(registry("8B", **settings))
        model: Any = spec.model
        model.vocab_size = VOCABULARY
        model.tok_embeddings.num_embeddings = model.lm_head.out_features = VOCABULARY
        return spec

    build_mesh = ParallelDims.build_mesh

    def built(dims: Any) -> Any:
        with unset_fake_temporarily():  # a mesh cannot be made of fake tensors
            return build_mesh(dims)

    choice = replace(example.Choice(compiled=not whole), **choices)
    sized = mock.patch.object(models, "model_registry", registered)
    meshes = mock.patch.object(ParallelDims, "build_mesh", built)
    unsharded = mock.patch.object(parallelize, "apply_fsdp_to_decoder", lambda *_, **__: None)
    unfilled = mock.patch.object(Module, "_init_self_parameters", lambda *_, **__: None)
    with enlarged(example), sized, meshes, unsharded, unfilled, shapes_only():
        with weights():
            model = example.llama(ranks * choice.shards, choice)
        (torch.compile(model) if whole else model)(text(), text())


def torchtitan_llama(ranks: int) -> None:
    """Sequence parallelism, block by block."""
    titan(ranks)


def titan_all_reduce(ranks: int) -> None:
    """Without sequence parallelism."""
    titan(ranks, sequence_parallel=False)


def titan_whole(ranks: int) -> None:
    """The model and its loss compiled at once."""
    titan(ranks, whole=True)


def titan_flex(ranks: int) -> None:
    """FlexAttention, torchtitan's default."""
    from benchmarks.frameworks_titan import flex_on_cpu

    with flex_on_cpu():
        titan(ranks, flex=True)


def titan_checkpointing(ranks: int) -> None:
    """Every block checkpointed whole."""
    titan(ranks, checkpointed="FullAC")


def titan_selective(ranks: int) -> None:
    """Every block checkpointed, but for the operations that torchtitan chooses to save."""
    titan(ranks, checkpointed="SelectiveAC")


def titan_spmd_types(ranks: int) -> None:
    """Torchtitan's default description of tensor parallelism.

    It keeps references to weights, which fake tensors cannot replace; one rank's real ones are
    small enough.
    """
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    from benchmarks.frameworks_titan import spmd_types

    with spmd_types(ranks):
        titan(ranks, weights=unset_fake_temporarily, spmd="spmd_types")


# Megatron-core


def megatron(ranks: int, *, sequence_parallel: bool) -> None:
    """Call Megatron-core's GPT."""
    import megatron_core as example

    os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"
    example.without_cuda()
    torch._dynamo.config.ignore_logging_functions.add(warnings.warn)
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(ranks, create_gloo_process_groups=False)
    with enlarged(example), shapes_only():
        model = example.gpt(ranks, sequence_parallel)
        torch.compile(model, fullgraph=True)(text(), text())


def megatron_core(ranks: int) -> None:
    """Sequence parallelism."""
    megatron(ranks, sequence_parallel=True)


def megatron_all_reduce(ranks: int) -> None:
    """Without sequence parallelism."""
    megatron(ranks, sequence_parallel=False)


# Hugging Face


def hugging_face(ranks: int, family: str = "Llama", sizes: Any = SIZES, **ways: Any) -> nn.Module:
    """Return a model that transformers divides over the ranks, as `from_pretrained` would."""
    import transformers
    from transformers.distributed import DistributedConfig

    model_class = getattr(transformers, f"{family}ForCausalLM")
    config = getattr(transformers, f"{family}Config")(**sizes)
    wanted = DistributedConfig(tp_size=ranks, **(ways or {"tp_plan": "auto"}))
    wanted, _, mesh = model_class.prepare_distribute_model(wanted)
    with shapes_only():
        model = model_class(config)
        return model_class.maybe_distribute_model(model, wanted, mesh)  # type: ignore[no-any-return]


def step_of(model: nn.Module) -> None:
    """Compile a Hugging Face model and call it for its loss."""
    with shapes_only():
        torch.compile(model)(input_ids=text(), labels=text(), use_cache=False)


def hf_tensor_parallel(ranks: int) -> None:
    """The model's own plan."""
    step_of(hugging_face(ranks))


def hf_checkpointing(ranks: int) -> None:
    """Every block checkpointed."""
    model = hugging_face(ranks).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    step_of(model)


def hf_lora(ranks: int) -> None:
    """PEFT's adapters on the layers whose columns are divided."""
    from peft import LoraConfig, get_peft_model

    columns = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"]
    # PEFT moves what it adds, which is already where it belongs; fake tensors refuse to move.
    unmoved = mock.patch.object(nn.Module, "to", lambda module, *_, **__: module)
    model = hugging_face(ranks)
    with shapes_only(), unmoved:
        model = get_peft_model(model, LoraConfig(r=16, target_modules=columns))
    step_of(model)


def hf_experts(ranks: int) -> None:
    """Experts that the ranks divide; every rank has all tokens."""
    experts_of(ranks, ep_implementation="all_reduce")


def experts_of(ranks: int, **ways: Any) -> None:
    """Call a Qwen3 mixture: eight experts, one a rank, of which each token takes two."""
    experts = {"num_experts": ranks, "num_experts_per_tok": 2, "moe_intermediate_size": 14336 // 2}
    sizes = {**SIZES, **experts, "head_dim": WIDTH // HEADS}
    step_of(hugging_face(ranks, "Qwen3Moe", sizes, ep_size=ranks, **ways))


def hf_generate(ranks: int) -> None:
    """The prefill into a static cache."""
    from transformers import StaticCache

    model = hugging_face(ranks).eval()
    with shapes_only(), torch.no_grad():
        cache = StaticCache(config=model.config, max_cache_len=2 * LENGTH)
        torch.compile(model)(input_ids=text(), past_key_values=cache, use_cache=True)


# torch


def fsdp_tp(ranks: int) -> None:
    """FSDP2 around tensor parallelism."""
    import dtensor_tp
    import fsdp_tp as example

    mesh = init_device_mesh("cpu", (2, ranks), mesh_dim_names=("dp", "tp"))
    with enlarged(dtensor_tp), shapes_only():
        with mock.patch.object(example, "fully_shard", lambda module, mesh: module):
            model = example.sharded(mesh, compiled=False)
        model.block.compile()
        model(text(), text())


def lightning_fabric(ranks: int) -> None:
    """What Fabric compiles: the model, inside of which FSDP2 shards."""
    import dtensor_tp

    mesh = init_device_mesh("cpu", (ranks,))
    with enlarged(dtensor_tp), shapes_only():
        model = dtensor_tp.GPT()
        parallelize_module(model.block, mesh, dtensor_tp.PLAN)
        torch.compile(model)(text(), text())


def pipeline(ranks: int) -> None:
    """Both stages, each on one micro-batch."""
    import dtensor_tp
    import pipeline as example

    mesh = init_device_mesh("cpu", (ranks,))
    with enlarged(dtensor_tp), enlarged(example), shapes_only():
        received = torch.zeros(ROWS, LENGTH, WIDTH, requires_grad=True)
        for stage, given in ((example.First(), text()), (example.Last(), received)):
            parallelize_module(stage.block, mesh, dtensor_tp.PLAN)
            torch.compile(stage)(given)


def ddp_tp(ranks: int) -> None:
    """One replica; DDP reduces its gradients outside of the graph."""
    import ddp_tp as example

    group = dist.new_group(list(range(ranks)))
    with enlarged(example), shapes_only():
        x = torch.zeros(ROWS, LENGTH, WIDTH)
        torch.compile(example.Model(group))(x, x)


def context_parallel(ranks: int) -> None:
    """Each rank with 2048 tokens of a row of all."""
    import context_parallel as example

    with enlarged(example), shapes_only():
        x = torch.zeros(ROWS, LENGTH, WIDTH)
        mask = torch.ones(LENGTH, ranks * LENGTH, dtype=torch.bool)
        torch.compile(example.Model())(x, x, mask)
