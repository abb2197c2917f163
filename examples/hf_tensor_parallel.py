"""Hugging Face transformers: a model loaded with its `tp_plan`, compiled as a whole.

    torchrun --nproc-per-node 2 examples/hf_tensor_parallel.py     (2 or 4 ranks)
    python examples/hf_tensor_parallel.py                          (starts 2 ranks itself)

It needs `pip install transformers`.
"""

import torch
from _hf import SIZES, small_llama
from _launch import compare, run, tokens
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig


def load(folder: str, world: int) -> nn.Module:
    parallel = DistributedConfig(tp_size=world, tp_plan="auto")
    return AutoModelForCausalLM.from_pretrained(folder, distributed_config=parallel)


def train(model: nn.Module) -> list[float]:
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for text, following in tokens(3, (4, 8), SIZES["vocab_size"]):
        optimiser.zero_grad()
        loss = model(input_ids=text, labels=following, use_cache=False).loss
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def main(rank: int, world: int) -> None:
    folder = small_llama()
    uncut = train(load(folder, world))

    model = load(folder, world)
    model.compile(backend="domino", options={"slices": 2})
    compare(uncut, train(model))


if __name__ == "__main__":
    run(main)
