"""Where steps end in loops of several kinds, and what is recorded of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from domino_compile.tools.scripts.steps import Facts, Steps, gradient_norm, steps_observed


class Seen:
    """What the observer tells."""

    def __init__(self) -> None:
        self.facts: list[Facts] = []
        self.restarts = 0
        self.steps = Steps(self.facts.append, self._restart)

    def _restart(self) -> None:
        self.restarts += 1
        self.facts.clear()

    @property
    def losses(self) -> list[list[float]]:
        return [[float(loss) for loss in facts.losses] for facts in self.facts]


@contextmanager
def observed() -> Iterator[Seen]:
    seen = Seen()
    with steps_observed(seen.steps):
        yield seen


def model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def test_an_optimizer_ends_a_step() -> None:
    with observed() as seen:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        said, norms = [], []
        for _ in range(3):
            optimizer.zero_grad()
            loss = net(torch.randn(4, 3)).square().mean()
            loss.backward()
            grads = [p.grad.flatten() for p in net.parameters() if p.grad is not None]
            norms.append(float(torch.cat(grads).norm()))
            optimizer.step()
            said.append([loss.item()])
    assert seen.steps.kind == "optimizer step"
    assert seen.losses == said
    assert [float(f.grad_norm) for f in seen.facts if f.grad_norm is not None] == pytest.approx(
        norms
    )


def test_micro_batches_are_one_step() -> None:
    with observed() as seen:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        said = []
        for _ in range(2):
            micro = []
            for _ in range(4):
                loss = net(torch.randn(4, 3)).square().mean()
                loss.backward()
                micro.append(loss.item())
            optimizer.step()
            said.append(micro)
    assert seen.losses == said


def test_a_long_accumulation_before_the_first_optimizer_step_is_no_step() -> None:
    with observed() as seen:
        net = model()
        torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(5):
            net(torch.randn(4, 3)).mean().backward()
        assert seen.facts == []


def test_only_the_first_optimizer_counts() -> None:
    with observed() as seen:
        nets = [model(), model()]
        optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in nets]
        for _ in range(3):
            for net, optimizer in zip(nets, optimizers, strict=True):
                net(torch.randn(4, 3)).mean().backward()
                optimizer.step()
    assert len(seen.facts) == 3


def test_without_an_optimizer_a_backward_ends_a_step() -> None:
    with observed() as seen:
        net = model()
        for _ in range(3):
            net(torch.randn(4, 3)).mean().backward()
    assert seen.steps.kind == "backward" and len(seen.facts) == 3
    assert all(len(losses) == 1 for losses in seen.losses)


def test_a_backward_within_a_backward_is_the_same_step() -> None:
    from torch.utils.checkpoint import checkpoint

    with observed() as seen:
        net, x = model(), torch.randn(4, 3, requires_grad=True)
        for _ in range(2):
            checkpoint(net, x, use_reentrant=True).mean().backward()
    assert len(seen.facts) == 2


def graph(steps: Steps, scale: float) -> Callable[..., Any]:
    return steps.graph(lambda x: (x * scale,))


def test_inference_steps_begin_where_a_graph_is_called_again() -> None:
    with observed() as seen, torch.no_grad():
        parts = [graph(seen.steps, 2.0), graph(seen.steps, 3.0)]
        for _ in range(4):
            for part in parts:
                part(torch.ones(2))
    assert seen.steps.kind == "graph call"
    assert len(seen.facts) == 3  # the last is still running
    assert [[float(o) for o in facts.output] for facts in seen.facts] == [[2.0, 3.0]] * 3


def test_a_higher_kind_of_step_begins_the_count_anew() -> None:
    with observed() as seen:
        part = graph(seen.steps, 1.0)
        with torch.no_grad():
            for _ in range(4):
                part(torch.ones(2))
        assert len(seen.facts) == 3
        net = model()
        net(torch.ones(2, 3)).mean().backward()
        assert len(seen.facts) == 1
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        assert seen.facts == []
        optimizer.step()
    assert len(seen.facts) == 1 and seen.restarts == 3


def test_hooks_are_removed() -> None:
    backward, make = torch.autograd.backward, torch.optim.Optimizer.__init__
    with observed() as seen:
        pass
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.ones(2, 3)).mean().backward()
    optimizer.step()
    assert seen.facts == [] and seen.restarts == 0
    assert torch.autograd.backward is backward and torch.optim.Optimizer.__init__ is make


def test_no_gradient_has_no_norm() -> None:
    assert gradient_norm(torch.optim.SGD(model().parameters(), lr=0.1)) is None
