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
from types import SimpleNamespace
from typing import Any

import torch
from _launch import compare, run, tokens, train
from torch import nn

import domino_compile

VOCABULARY, LENGTH, LAYERS = 2048, 16, 2


class Loss(nn.Module):
    """The mean loss of a torchtitan model; its logits are spread over the ranks."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, text: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        from torchtitan.components.loss import cross_entropy_loss

        positions = torch.arange(LENGTH).expand_as(text).contiguous()
        logits = self.model(text, positions=positions)
        loss: torch.Tensor = cross_entropy_loss(logits, following, global_vocab_size=VOCABULARY)
        return loss / following.numel()


def llama(world: int, compiled: bool) -> nn.Module:
    """Torchtitan's debug Llama on `world` tensor-parallel ranks."""
    from torchtitan.config import CompileConfig, ParallelismConfig, TrainingConfig
    from torchtitan.distributed import ParallelDims
    from torchtitan.distributed.utils import set_spmd_backend
    from torchtitan.models.common.attention import ScaledDotProductAttention
    from torchtitan.models.llama3 import model_registry, parallelize_llama

    parallelism = ParallelismConfig(
        tensor_parallel_degree=world,
        data_parallel_shard_degree=1,
        enable_sequence_parallel=False,
        spmd_backend="partial_dtensor",
    )
    set_spmd_backend(parallelism.spmd_backend)
    config: Any = copy.deepcopy(model_registry("debugmodel", attn_backend="flex").model)
    config.layers = config.layers[:LAYERS]
    for layer in config.layers:
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
    config.update_from_config(config=SimpleNamespace(parallelism=parallelism))
    with torch.device("meta"):
        model = config.build()
    model = parallelize_llama(
        model,
        parallel_dims=ParallelDims.from_config(parallelism, world),
        training=TrainingConfig(mixed_precision_param="float32"),
        parallelism=parallelism,
        compile_config=CompileConfig(enable=compiled, components=["model"]),
        ac_config=None,  # type: ignore[arg-type]
        dump_folder="",
    )
    model.to_empty(device="cpu")
    with torch.no_grad():
        model.init_states()
    return Loss(model)


def without_cuda() -> None:
    """Let torchtitan take the CPU for its device."""
    import torch._utils

    torch._utils._get_available_device_type = lambda: "cpu"  # type: ignore[assignment]


def main(rank: int, world: int) -> None:
    if not torch.cuda.is_available():
        without_cuda()
    batches = tokens(3, (4, LENGTH), VOCABULARY)
    torch.manual_seed(0)
    uncut = train(llama(world, compiled=False), batches)

    torch.manual_seed(0)
    with domino_compile.enable(slices=2):
        model = llama(world, compiled=True)
        compare(uncut, train(model, batches))


if __name__ == "__main__":
    run(main)
