"""A batch size that changes from step to step: one compile serves them all.

The slices' sizes are computed when the program runs; 7 rows are cut into 4 and 3.

    torchrun --nproc-per-node 2 examples/dynamic_batch.py          (2 or 4 ranks)
    python examples/dynamic_batch.py                               (starts 2 ranks itself)
"""

import torch
from _launch import compare, run, tokens, train
from dtensor_tp import LENGTH, VOCABULARY, parallel_gpt


def main(rank: int, world: int) -> None:
    batches = [tokens(1, (rows, LENGTH), VOCABULARY)[0] for rows in (4, 7, 2, 6)]
    uncut = train(parallel_gpt(world), batches)

    for batch in batches:
        for tensor in batch:
            torch._dynamo.mark_dynamic(tensor, 0)
    model = torch.compile(parallel_gpt(world), backend="domino")
    compare(uncut, train(model, batches))


if __name__ == "__main__":
    run(main)
