"""torchtitan's Llama, compiled block by block as torchtitan does it: through the switch.

torchtitan takes no backend but `inductor` and `aot_eager`. Its own trainer needs no edit:

    torchrun --nproc-per-node 8 -m domino_compile run -m torchtitan.train --compile.enable ...

Here torchtitan's model and its `parallelize_llama` are called directly, since its trainer and
the training of its FlexAttention need a GPU.

    torchrun --nproc-per-node 2 examples/torchtitan_llama.py
    python examples/torchtitan_llama.py                            (starts 2 ranks itself)

It needs `pip install torchtitan`. (With torch 2.13 torchtitan 0.3 trains with
`--parallelism.spmd_backend partial_dtensor`; its default, `spmd_types`, needs torch 2.14.)
"""

import copy
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from _launch import compare, run, tokens, train
from torch import nn
from torch.distributed.fsdp import FSDPModule

import domino_compile

VOCABULARY, LENGTH, LAYERS = 2048, 16, 2


@dataclass(frozen=True)
class Choice:
    """What torchtitan's configuration chooses, besides its defaults.

    Attributes:
        compiled: whether `torch.compile` is on; torchtitan compiles every block by itself.
        sequence_parallel: whether activations between blocks are spread over the ranks.
        shards: over how many data-parallel ranks FSDP2 shards the weights.
        stages: over how many pipeline stages the layers are spread.
        checkpointing: a policy of torchtitan's, or None.
        flex: whether attention is FlexAttention, torchtitan's default.
        spmd: torchtitan's way to describe tensor parallelism.
    """

    compiled: bool = False
    sequence_parallel: bool = True
    shards: int = 1
    stages: int = 1
    checkpointing: Any = None
    flex: bool = False
    spmd: Any = "partial_dtensor"


class Loss(nn.Module):
    """The mean loss of a torchtitan model; its logits are spread over the ranks."""

    def __init__(self, model: Any, flex: bool) -> None:
        super().__init__()
        self.model, self.flex = model, flex

    def forward(self, text: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        from torchtitan.components.loss import cross_entropy_loss

        positions = torch.arange(LENGTH).expand_as(text).contiguous()
        masks = self.model.get_attention_masks(positions) if self.flex else None
        logits = self.model(text, positions=positions, attention_masks=masks)
        loss: torch.Tensor = cross_entropy_loss(logits, following, global_vocab_size=VOCABULARY)
        return loss / following.numel()


def described(world: int, choice: Choice) -> tuple[Any, dict[str, Any]]:
    """Torchtitan's configuration of its debug Llama on `world` ranks, and how it is spread."""
    from torchtitan.config import CompileConfig, ParallelismConfig, TrainingConfig
    from torchtitan.distributed import ParallelDims
    from torchtitan.distributed.utils import set_spmd_backend
    from torchtitan.models.common.attention import ScaledDotProductAttention
    from torchtitan.models.llama3 import model_registry

    parallelism = ParallelismConfig(
        tensor_parallel_degree=world // choice.shards // choice.stages,
        data_parallel_shard_degree=choice.shards,
        pipeline_parallel_degree=choice.stages,
        pipeline_parallel_microbatch_size=2,
        enable_sequence_parallel=choice.sequence_parallel,
        spmd_backend=choice.spmd,
    )
    set_spmd_backend(parallelism.spmd_backend)
    config: Any = copy.deepcopy(model_registry("debugmodel", attn_backend="flex").model)
    config.layers = config.layers[:LAYERS]
    for layer in [] if choice.flex else config.layers:
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
    config.update_from_config(config=SimpleNamespace(parallelism=parallelism))
    return config, {
        "parallel_dims": ParallelDims.from_config(parallelism, world),
        "training": TrainingConfig(mixed_precision_param="float32", local_batch_size=8),
        "parallelism": parallelism,
        "compile_config": CompileConfig(enable=choice.compiled, components=["model"]),
        "ac_config": choice.checkpointing,
        "dump_folder": "",
    }


def llama(world: int, choice: Choice) -> nn.Module:
    """Torchtitan's debug Llama on `world` ranks, all tensor-parallel but for FSDP2's."""
    from torchtitan.models.llama3 import parallelize_llama

    config, spread = described(world, choice)
    with torch.device("meta"):
        model = config.build()
    return Loss(filled(parallelize_llama(model, **spread)), choice.flex)


def filled(model: Any) -> Any:
    """Give a model its weights, which were only described so far."""
    for module in model.modules():
        if isinstance(module, FSDPModule):  # gloo has no reduction that divides
            module.set_force_sum_reduction_for_comms(True)
    model.to_empty(device="cpu")
    with torch.no_grad():
        model.init_states()
    return model


def without_cuda() -> None:
    """Let torchtitan take the CPU for its device."""
    import torch._utils

    torch._utils._get_available_device_type = lambda: "cpu"  # type: ignore[assignment]


def train_and_compare(world: int, choice: Choice) -> None:
    """Train without and with domino, and compare the losses."""
    if not torch.cuda.is_available():
        without_cuda()
    batches = tokens(3, (4, LENGTH), VOCABULARY)
    torch.manual_seed(0)
    uncut = train(llama(world, choice), batches)

    torch.manual_seed(0)
    with domino_compile.enable(slices=2):
        model = llama(world, replace(choice, compiled=True))
        compare(uncut, train(model, batches))


def main(rank: int, world: int) -> None:
    train_and_compare(world, Choice())


if __name__ == "__main__":
    run(main)
