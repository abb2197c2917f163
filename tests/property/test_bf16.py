"""The bf16 rule: cutting adds no error.

A cut program adds up in another order than the uncut one. Both are judged by a float64
reference: the error of all gradients together may be at most 1.25 times that of the uncut one.
"""

from __future__ import annotations

import pytest
import torch

import domino_compile
from tests.property import models
from tests.property.models import Style

SEEDS = range(4)
LIMIT = 1.25
BATCH = 8

Gradients = dict[str, torch.Tensor]


def gradients(model: torch.nn.Module, compiled: object, seed: int) -> Gradients:
    """Float64 copies of the gradients after one step."""
    model.zero_grad()
    loss, _ = compiled(*models.data(BATCH, seed))  # type: ignore[operator]
    loss.backward()
    return {n: p.grad.double().clone() for n, p in model.named_parameters() if p.grad is not None}


def squared_error(found: Gradients, reference: Gradients) -> dict[str, float]:
    return {n: float((found[n] - g).square().sum()) for n, g in reference.items()}


@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_cut_bf16_gradients_are_as_exact_as_uncut_ones(kind: str) -> None:
    model = models.make(kind, torch.bfloat16, 0, Style(layers=2))
    exact = models.make(kind, torch.float64, 0, Style(layers=2))
    weights = [models.make(kind, torch.bfloat16, s, Style(layers=2)).state_dict() for s in SEEDS]
    references = []
    for seed, weight in zip(SEEDS, weights, strict=True):
        exact.load_state_dict(weight)
        references.append(gradients(exact, exact, seed))
    errors: dict[int, dict[str, float]] = {}
    for slices in (1, 2, 4):
        torch._dynamo.reset()
        compiled, total = compile_(model, slices), errors.setdefault(slices, {"all": 0.0})
        for seed, weight, reference in zip(SEEDS, weights, references, strict=True):
            model.load_state_dict(weight)
            found = squared_error(gradients(model, compiled, seed), reference)
            for name, error in found.items():
                total[name] = total.get(name, 0.0) + error
            total["all"] += sum(found.values())
    for slices in (2, 4):
        ratios = {n: (errors[slices][n] / errors[1][n]) ** 0.5 for n in errors[1]}
        report = "\n".join(f"{ratio:8.3f}  {name}" for name, ratio in ratios.items())
        print(f"{slices} slices: error by the uncut program's:\n{report}")
        assert ratios["all"] <= LIMIT


def compile_(model: torch.nn.Module, slices: int) -> object:
    """The eager lowering: every operation rounds, as the graph says."""
    options: dict[str, object] = {"lowering": "eager", "check_ranks": False, "slices": slices}
    if slices == 1:
        options["disable_passes"] = ("slice", "schedule")
    compiled = torch.compile(model, backend="domino", options=options)

    def call(*inputs: torch.Tensor) -> object:
        result = compiled(*inputs)
        status = domino_compile.reports()[-1].status
        assert slices == 1 or status == "sliced", status
        return result

    return call
