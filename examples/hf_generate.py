"""Hugging Face transformers: `generate` with a static cache, prefill and decoding cut by rows.

    torchrun --nproc-per-node 2 examples/hf_generate.py            (2 or 4 ranks)
    python examples/hf_generate.py                                 (starts 2 ranks itself)

It needs `pip install transformers`.
"""

import torch
import torch.distributed as dist
from _hf import SIZES, small_llama
from _launch import run, tokens
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

import domino_compile

STATIC = {"max_new_tokens": 4, "do_sample": False, "cache_implementation": "static"}


def main(rank: int, world: int) -> None:
    parallel = DistributedConfig(tp_size=world, tp_plan="auto")
    model = AutoModelForCausalLM.from_pretrained(small_llama(), distributed_config=parallel).eval()
    ((prompts, _),) = tokens(1, (4, 8), SIZES["vocab_size"])
    expected = model.generate(prompts, **STATIC, disable_compile=True)

    # On GPUs generate() compiles its own decoding step; here both steps are compiled as one.
    model.forward = torch.compile(model.forward, backend="domino", options={"slices": 2})
    written = model.generate(prompts, **STATIC, disable_compile=True)
    assert torch.equal(written, expected)
    reports = domino_compile.reports()
    assert all(report.status == "sliced" for report in reports), reports
    if dist.get_rank() == 0:
        print("written:", written[:, 8:].tolist())
        for report in reports:
            print(report.summary())


if __name__ == "__main__":
    run(main)
