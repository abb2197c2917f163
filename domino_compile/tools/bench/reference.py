"""The float64 reference: the same step without a compiler and without approximations.

It uses the same model, parameters, inputs, process group and full shape, in float64. Three measures
keep it affordable on the GPU that measures the programs. They only change the order of sums in
float64:

* Rows of the batch are computed one after the other, and gradients are accumulated. No operation of
  the benchmarked models mixes rows, and every loss is a sum over them.
* Every block is checkpointed, so that only one block's activations are kept at a time.
* Attention is computed one checkpointed head at a time, because no fused kernel supports float64:
  the scores of one head and row take ``seq**2 * 8`` bytes (0.5 GiB at 8192 tokens).

So the live memory consists of parameters and gradients, one block's activations for one row (about
25 times ``seq * hidden * 8`` bytes) and about five times the scores of a head. For two layers of
Llama 3 405B at TP=8 and 8192 tokens that is 13 + 27 + 3 GiB; for four layers of Llama 3 8B it is
2 + 7 + 3 GiB.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.distributed as dist
from torch.utils.checkpoint import checkpoint

from domino_compile.tools.bench.checkpointing import Checkpointing
from domino_compile.tools.bench.models import Block
from domino_compile.tools.bench.workload import Step, Workload, gradients_of, inputs_of


def exact_results(
    workload: Workload, group: dist.ProcessGroup, device: str
) -> dict[str, torch.Tensor]:
    """Return loss (or output) and this rank's gradients in float64, on the device.

    Args:
        workload: The workload. Dropout is left out, because its random numbers would differ.
        group: The tensor-parallel group; all of its ranks must call this.
        device: ``cuda`` or ``cpu``.
    """
    ac = Checkpointing.FULL if workload.training else Checkpointing.NONE
    one_row = replace(workload.without_dropout(), ac=str(ac), batch=1)
    step = Step(one_row, group, device, exact=True)
    step.inputs = ()
    for block in step.model.blocks:
        assert isinstance(block, Block)
        block.attention = attention_by_head
    row_dim = 1 if workload.parallel_style.tokens_first else 0
    inputs = inputs_of(workload, device)
    outcomes = []
    for row in range(workload.batch):
        values = [value.narrow(row_dim, row, 1) for value in inputs]
        wide = [value.double() if value.is_floating_point() else value for value in values]
        outcomes.append(_one_row(step, wide))
    # The loss without head is divided by the root of the number of elements, here those of one row;
    # the cross entropy is a mean over tokens.
    share = 1 / workload.batch if workload.head else workload.batch**-0.5
    if not workload.training and not workload.head:
        return {"output": torch.cat(outcomes, row_dim)}
    loss = torch.stack(outcomes).sum() * share
    grads = gradients_of(step.model)
    return {"loss": loss} | {name: grad.mul_(share) for name, grad in grads.items()}


def _one_row(step: Step, inputs: list[torch.Tensor]) -> torch.Tensor:
    if not step.workload.training:
        with torch.no_grad():
            output: torch.Tensor = step.model(*inputs)
        return output.detach()
    loss: torch.Tensor = step.model(*inputs)
    loss.backward()
    return loss.detach()


def attention_by_head(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Compute causal attention on ``(batch, heads, seq, head_dim)``, one head at a time."""
    parts = [
        checkpoint(_causal, *one, use_reentrant=False, preserve_rng_state=False)
        for one in zip(q.unbind(1), k.unbind(1), v.unbind(1), strict=True)
    ]
    return torch.stack(parts, 1)


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    mixed: torch.Tensor = scores.masked_fill(later, float("-inf")).softmax(-1) @ v
    return mixed
