"""Megatron-core's GPT as one graph.

Each of its column-parallel linears reduces the gradient of its input with `async_op=True`, which
ends the graph of every other backend.

    torchrun --nproc-per-node 2 examples/megatron_core.py
    python examples/megatron_core.py                               (starts 2 ranks itself)

It needs `pip install megatron_core`. Megatron-core warns inside of forward on rank 0 only, which
would end that rank's graph elsewhere than the others': so Dynamo is told to leave warnings out.
Megatron-core draws random numbers on CUDA; without a GPU nothing is drawn here.
"""

import contextlib
import os
import warnings
from typing import Any

import torch
import torch.distributed as dist
from _launch import compare, run, tokens, train
from torch import nn

VOCABULARY, WIDTH, HEADS, LENGTH = 64, 32, 4, 8


class Loss(nn.Module):
    """The mean loss of Megatron-core's GPT; positions and mask are those of whole sequences."""

    def __init__(self, gpt: nn.Module) -> None:
        super().__init__()
        self.gpt = gpt
        self.register_buffer("positions", torch.arange(LENGTH))
        self.register_buffer("hidden", torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1))

    def forward(self, text: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        positions = self.positions.expand(text.shape[0], -1)
        loss: torch.Tensor = self.gpt(text, positions, self.hidden[None, None], labels=following)
        return loss.mean()


class Norm(nn.LayerNorm):
    """A norm of tokens that are spread over the ranks.

    Megatron-core takes that of Transformer Engine or apex; its own one knows no such tokens.
    """

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__(hidden_size, eps)
        if config.sequence_parallel:  # each rank has the gradient of its own tokens
            for weight in self.parameters():
                weight.register_post_accumulate_grad_hook(summed_over_ranks)


def summed_over_ranks(weight: torch.Tensor) -> None:
    """Do what Megatron-core's `finalize_model_grads` does for weights of norms."""
    from megatron.core import parallel_state

    dist.all_reduce(weight.grad, group=parallel_state.get_tensor_model_parallel_group())


def gpt(world: int, sequence_parallel: bool) -> nn.Module:
    """A GPT of two layers; its embedding, linears and loss are spread over the ranks."""
    from megatron.core import parallel_state
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
    from megatron.core.transformer.transformer_config import TransformerConfig

    if not parallel_state.model_parallel_is_initialized():
        parallel_state.initialize_model_parallel(tensor_model_parallel_size=world)
    config = TransformerConfig(
        num_layers=2,
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        tensor_model_parallel_size=world,
        sequence_parallel=sequence_parallel,
        use_cpu_initialization=True,
        params_dtype=torch.get_default_dtype(),
        bf16=torch.get_default_dtype() is torch.bfloat16,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    layer = get_gpt_layer_local_spec()
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = Norm
    model: Any = GPTModel(
        config,
        TransformerBlockSubmodules(layer_specs=[layer] * 2, layer_norm=Norm),
        vocab_size=VOCABULARY,
        max_sequence_length=LENGTH,
        position_embedding_type="rope",
    )
    return Loss(model)


def without_cuda() -> None:
    """Let Megatron-core run where there is no GPU."""
    from megatron.core.tensor_parallel import random

    random.initialize_rng_tracker()
    tracker: Any = random.get_cuda_rng_tracker()
    tracker.fork = lambda name="": contextlib.nullcontext()
    torch.cuda.current_device = lambda: "cpu"  # type: ignore[assignment, return-value]


def train_and_compare(world: int, sequence_parallel: bool) -> None:
    """Train without and with domino, and compare the losses."""
    os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"
    if not torch.cuda.is_available():
        without_cuda()
    batches = tokens(3, (4, LENGTH), VOCABULARY)
    torch.manual_seed(0)
    uncut = train(gpt(world, sequence_parallel), batches)

    torch.manual_seed(0)
    model = gpt(world, sequence_parallel)
    torch._dynamo.config.ignore_logging_functions.add(warnings.warn)
    compiled = torch.compile(model, backend="domino", fullgraph=True, options={"slices": 2})
    compare(uncut, train(compiled, batches))


def main(rank: int, world: int) -> None:
    train_and_compare(world, sequence_parallel=True)


if __name__ == "__main__":
    run(main)
