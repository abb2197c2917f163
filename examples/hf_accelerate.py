"""accelerate: it only offers `dynamo_backend="inductor"`, and the switch turns that into domino.

    torchrun --nproc-per-node 2 examples/hf_accelerate.py          (2 or 4 ranks)
    python examples/hf_accelerate.py                               (starts 2 ranks itself)

It needs `pip install transformers accelerate`.
"""

import torch
from _hf import SIZES, accelerate_sees_one_rank, small_llama
from _launch import compare, run, tokens
from accelerate import Accelerator
from hf_tensor_parallel import load

import domino_compile


def train(folder: str, world: int, backend: str) -> list[float]:
    accelerator = Accelerator(cpu=True, dynamo_backend=backend)
    model = load(folder, world)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    model, optimiser = accelerator.prepare(model, optimiser)
    losses = []
    for text, following in tokens(3, (4, 8), SIZES["vocab_size"]):
        optimiser.zero_grad()
        loss = model(input_ids=text, labels=following, use_cache=False).loss
        accelerator.backward(loss)
        optimiser.step()
        losses.append(loss.item())
    return losses


def main(rank: int, world: int) -> None:
    folder = small_llama()
    with accelerate_sees_one_rank():
        uncut = train(folder, world, "no")
    with accelerate_sees_one_rank(), domino_compile.enable(slices=2):
        compare(uncut, train(folder, world, "inductor"))


if __name__ == "__main__":
    run(main)
