"""Hugging Face transformers: a mixture of experts, with different experts on each rank.

All ranks have the same batch. Each computes its experts' part, and an all-reduce sums the parts.

    torchrun --nproc-per-node 2 examples/hf_experts.py             (2 or 4 ranks)
    python examples/hf_experts.py                                  (starts 2 ranks itself)

It needs `pip install transformers`.
"""

from _hf import SIZES, checkpoint
from _launch import compare, run
from hf_tensor_parallel import train
from torch import nn
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.distributed import DistributedConfig

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 4}


def load(folder: str, world: int) -> nn.Module:
    parallel = DistributedConfig(tp_size=world, ep_size=world, ep_implementation="all_reduce")
    return AutoModelForCausalLM.from_pretrained(folder, distributed_config=parallel)


def main(rank: int, world: int) -> None:
    folder = checkpoint(Qwen3MoeForCausalLM, Qwen3MoeConfig(**SIZES, **EXPERTS))
    uncut = train(load(folder, world))

    model = load(folder, world)
    model.compile(backend="domino", options={"slices": 2})
    compare(uncut, train(model))


if __name__ == "__main__":
    run(main)
