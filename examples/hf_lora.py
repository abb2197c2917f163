"""PEFT: LoRA adapters on a tensor-parallel Hugging Face model.

    torchrun --nproc-per-node 2 examples/hf_lora.py                (2 or 4 ranks)
    python examples/hf_lora.py                                     (starts 2 ranks itself)

It needs `pip install transformers peft`. (peft 0.21 cannot run adapters on row-parallel layers,
`o_proj` and `down_proj`, of transformers 5.24, whether compiled or not.)
"""

import torch
from _hf import small_llama
from _launch import compare, run
from hf_tensor_parallel import load, train
from peft import LoraConfig, get_peft_model
from torch import nn


def with_adapters(folder: str, world: int) -> nn.Module:
    torch.manual_seed(0)
    columns = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"]
    return get_peft_model(load(folder, world), LoraConfig(r=4, target_modules=columns))


def main(rank: int, world: int) -> None:
    folder = small_llama()
    uncut = train(with_adapters(folder, world))

    model = with_adapters(folder, world)
    model.compile(backend="domino", options={"slices": 2})
    compare(uncut, train(model))


if __name__ == "__main__":
    run(main)
