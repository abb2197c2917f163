"""A batch size that changes from step to step, with a single compile.

The slices' sizes are computed when the program runs: 8 rows are cut into 3, 3 and 2. The numbers of
rows here are even because DTensor guards on whether its ranks divide them when it is captured.

    torchrun --nproc-per-node 2 examples/dynamic_batch.py          (2 or 4 ranks)
    python examples/dynamic_batch.py                               (starts 2 ranks itself)
"""

import torch
from _launch import compare, run, tokens, train
from dtensor_tp import LENGTH, VOCABULARY, parallel_gpt

import domino_compile


def main(rank: int, world: int) -> None:
    batches = [tokens(1, (rows, LENGTH), VOCABULARY)[0] for rows in (8, 12, 16)]
    uncut = train(parallel_gpt(world), batches)

    for batch in batches:
        for tensor in batch:
            torch._dynamo.mark_dynamic(tensor, 0)
    model = torch.compile(parallel_gpt(world), backend="domino", options={"slices": 3})
    compare(uncut, train(model, batches))
    assert len(domino_compile.reports()) == 1


if __name__ == "__main__":
    run(main)
