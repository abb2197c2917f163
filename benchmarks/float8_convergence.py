"""Train a small model in float8, cut and uncut, and compare the losses with the baseline's noise.

Usage: ``python -m benchmarks.float8_convergence [--steps 1000] [--recipes fp8-rowwise ...]``.

Two gloo ranks train a two-block Llama with torchao's float8 layers to predict a random Markov
chain: a new batch each step, so that losses are those of unseen text. For each recipe the same
training runs

* uncut: without domino, operation by operation;
* cut: with domino, ``slices=2``, operation by operation, so that both runs use the same kernels;
* several times uncut with every weight changed by a relative 1e-6 (normally distributed): such
  runs differ by what training amplifies from nothing, which is the noise that cutting must not
  exceed.

Parameters and activations are float32: in bf16 a change of 1e-6 would be rounded away. Products are
float8, emulated by torch on the CPU. What is compared is the mean loss of each stretch of
``--stretch`` steps, and that of the last. The result goes to
``benchmarks/results/float8_convergence.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import domino_compile
from domino_compile.backend import domino
from domino_compile.tools.bench.float8 import RECIPES, convert
from domino_compile.tools.bench.models import make_model
from domino_compile.tools.bench.shapes import ModelShape
from domino_compile.tools.bench.styles import Parallel, Style

OUT = Path(__file__).parent / "results" / "float8_convergence.json"
#: Parts of a layer stay multiples of 16, which scaled products need.
SHAPE = ModelShape("converging", "llama", 2, 64, 4, 4, 16, 128, 64)
RANKS, ROWS, TOKENS = 2, 8, 32
RATE = 3e-3
#: The relative change of the weights of the runs that show the noise.
PERTURBATION = 1e-6


@dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
        recipe: A name of ``RECIPES``.
        cut: Whether domino cuts the program in two.
        seed: The seed of the perturbation; None: unperturbed.
    """

    recipe: str
    cut: bool = False
    seed: int | None = None


def chain(steps: int) -> torch.Tensor:
    """Return text from a random Markov chain, ``(steps, ROWS, TOKENS + 1)``, always the same."""
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(SHAPE.vocabulary, SHAPE.vocabulary, generator=generator)
    following = (2 * scores).softmax(-1)
    state = torch.randint(SHAPE.vocabulary, (steps * ROWS,), generator=generator)
    text = [state]
    for _ in range(TOKENS):
        state = torch.multinomial(following[state], 1, generator=generator)[:, 0]
        text.append(state)
    return torch.stack(text, -1).view(steps, ROWS, TOKENS + 1)


def model_for(asked: Training, rank: int) -> nn.Module:
    """Return this rank's part of the model; what all ranks share is equal on all."""
    torch.manual_seed(0)
    group = dist.group.WORLD
    assert group is not None
    parallel = Parallel.of(Style.MEGATRON, group, "cpu")
    model = make_model(
        *(SHAPE, SHAPE.layers, parallel),
        dropout=0.0,
        head=True,
        device="cpu",
        dtype=torch.float32,
        convert=partial(convert, dtype=asked.recipe),
    )
    divided = torch.Generator().manual_seed(100 + rank)
    noise = torch.Generator().manual_seed(asked.seed or 0)
    with torch.no_grad():
        for parameter in model.parameters():
            if asked.seed is not None:
                parameter *= 1 + PERTURBATION * torch.randn(parameter.shape, generator=noise)
        for parameter in model.blocks.parameters():
            if parameter.dim() > 1:
                parameter += 0.02 * torch.randn(parameter.shape, generator=divided)
    return model


def train(asked: Training, rank: int, text: torch.Tensor) -> list[float]:
    """Return the loss of each step on this rank."""
    torch._dynamo.reset()
    domino_compile.reset_reports()
    model = model_for(asked, rank)
    backend: dict[str, Any] = {"backend": "aot_eager"}
    if asked.cut:
        backend = {"backend": domino, "options": {"slices": 2, "lowering": "eager"}}
    compiled = torch.compile(model, **backend)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
    losses = []
    for batch in text:
        optimiser.zero_grad()
        loss = compiled(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    if asked.cut:
        statuses = {report.status for report in domino_compile.reports()}
        assert statuses == {"sliced"}, f"nothing was cut: {statuses}"
    return losses


def stretches(losses: Sequence[float], length: int) -> list[float]:
    """Return the mean loss of each stretch of steps; the last one may be shorter."""
    return [mean(losses[at : at + length]) for at in range(0, len(losses), length)]


def compared(
    uncut: Sequence[float], cut: Sequence[float], noisy: Sequence[Sequence[float]], length: int
) -> dict[str, Any]:
    """Compare the curves of one recipe.

    Returns:
        Mean losses of the last stretch, the largest difference of any stretch from the uncut run
        (relative), how many steps the cut run shares with it to the last bit, and whether cutting
        changes no stretch by more than the largest change that the perturbation makes anywhere.
    """
    base = stretches(uncut, length)

    def largest(curve: Sequence[float]) -> float:
        pairs = zip(stretches(curve, length), base, strict=True)
        return max(abs(mine - theirs) / abs(theirs) for mine, theirs in pairs)

    noise = max(largest(curve) for curve in noisy)
    off = largest(cut)
    same = next((i for i, (a, b) in enumerate(zip(cut, uncut, strict=True)) if a != b), len(uncut))
    return {
        "first_loss": uncut[0],
        "uncut_loss": base[-1],
        "cut_loss": stretches(cut, length)[-1],
        "perturbed_losses": [stretches(curve, length)[-1] for curve in noisy],
        "difference": off,
        "noise": noise,
        "steps_equal_bit_by_bit": same,
        "within_noise": all(map(math.isfinite, cut)) and off <= noise,
    }


def measure(rank: int, rendezvous: str, asked: argparse.Namespace) -> None:
    """Train all of it on one rank; rank 0 writes after each recipe."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=RANKS)
    text = chain(asked.steps)
    rows: dict[str, Any] = {}
    for recipe in asked.recipes:
        began = time.monotonic()
        uncut = train(Training(recipe), rank, text)
        cut = train(Training(recipe, cut=True), rank, text)
        noisy = [train(Training(recipe, seed=n + 1), rank, text) for n in range(asked.noisy)]
        row = compared(uncut, cut, noisy, asked.stretch)
        rows[recipe] = row | {"seconds": round(time.monotonic() - began, 1)}
        if rank == 0:
            write(asked, rows)
            print(recipe, json.dumps(rows[recipe]), flush=True)
    dist.destroy_process_group()


def write(asked: argparse.Namespace, rows: dict[str, Any]) -> None:
    """Write the results so far."""
    document = {
        "torch": torch.__version__,
        "torchao": version("torchao"),
        "ranks": RANKS,
        "batch": ROWS,
        "tokens": TOKENS,
        "steps": asked.steps,
        "stretch": asked.stretch,
        "perturbation": PERTURBATION,
        "recipes": rows,
    }
    asked.out.write_text(json.dumps(document, indent=1) + "\n")


def main() -> None:
    """Start the ranks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--stretch", type=int, default=100, help="steps that are averaged")
    parser.add_argument("--noisy", type=int, default=3, help="perturbed runs")
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    rendezvous = f"file://{asked.out.resolve()}.rendezvous"
    try:
        mp.spawn(measure, (rendezvous, asked), nprocs=RANKS)
    finally:
        Path(rendezvous.removeprefix("file://")).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
