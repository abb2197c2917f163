"""Detects where the training or inference steps of an unmodified script begin and end.

Steps are observed from outside, by the first of these signs that applies:

1. if there is an optimizer, a step ends when the first optimizer that steps has stepped;
2. if there is a backward, a step ends when it has run;
3. otherwise a new step begins when a compiled graph is called for the second time in a step.

A script reveals its kind gradually (a forward comes before the first backward). Whenever a stronger
sign appears, counting starts again, so that all counted steps are of the same kind.

Recording costs the same with every backend: a copy of a scalar per backward, and one norm of all
gradients before the optimizer steps.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from domino_compile.host.replaced import replaced

#: The signs that end a step, from the weakest to the strongest.
KINDS = ("", "graph call", "backward", "optimizer step")
_GRAPH, _BACKWARD, _OPTIMIZER = 1, 2, 3


@dataclass
class Facts:
    """The numbers observed in one step of the script, still on the device.

    Attributes:
        losses: The scalars that were differentiated, one per micro-batch.
        grad_norm: The norm of this rank's gradients when the optimizer stepped; None if it did not.
        output: The mean magnitudes of the values that the step's graphs returned; inference only.
    """

    losses: list[torch.Tensor] = field(default_factory=list)
    grad_norm: torch.Tensor | None = None
    output: list[torch.Tensor] = field(default_factory=list)


class Steps:
    """Detects the ends of steps.

    Args:
        ended: Called at the end of every step.
        restarted: Called when a stronger sign shows that the steps counted so far were not steps.
    """

    def __init__(self, ended: Callable[[Facts], None], restarted: Callable[[], None]) -> None:
        self._ended, self._restarted = ended, restarted
        self._kind = 0
        self._facts = Facts()
        self._called: set[int] = set()
        self._first: weakref.ref[torch.optim.Optimizer] | None = None

    @property
    def kind(self) -> str:
        """Return the sign that ends a step of this script; empty if there was none yet."""
        return KINDS[self._kind]

    def _rise(self, kind: int) -> None:
        if kind > self._kind:
            self._kind = kind
            self._restarted()

    def _end(self, kind: int) -> None:
        if kind == self._kind:
            facts, self._facts = self._facts, Facts()
            self._called.clear()
            self._ended(facts)

    # Called by the hooks.

    def graph(self, program: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a compiled graph so that its calls are observed."""
        name = id(program)

        def run(*values: Any) -> Any:
            self._rise(_GRAPH)
            if name in self._called:
                self._end(_GRAPH)
            self._called.add(name)
            returned = program(*values)
            if self._kind == _GRAPH:
                self._facts.output += _magnitudes(returned)
            return returned

        return run

    def _differentiated(self, roots: Sequence[Any]) -> None:
        self._rise(_BACKWARD)
        self._facts.losses += [_local(root).clone() for root in roots if _is_scalar(root)]

    def _made(self) -> None:
        self._rise(_OPTIMIZER)

    def _is_first(self, optimizer: torch.optim.Optimizer) -> bool:
        if self._first is None or self._first() is None:
            self._first = weakref.ref(optimizer)
        return self._first() is optimizer

    def _before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._is_first(optimizer):
            self._facts.grad_norm = gradient_norm(optimizer)

    def _after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._is_first(optimizer):
            self._rise(_OPTIMIZER)
            self._end(_OPTIMIZER)


def gradient_norm(optimizer: torch.optim.Optimizer) -> torch.Tensor | None:
    """Return the 2-norm of all gradients that this rank holds for an optimizer, or None."""
    grads = [
        _local(parameter.grad).float()
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None and not parameter.grad.is_sparse
    ]
    return torch.nn.utils.get_total_norm(grads) if grads else None


def _local(value: torch.Tensor) -> torch.Tensor:
    """Return the part of a tensor that this rank holds."""
    value = value.detach()
    return value.to_local() if isinstance(value, DTensor) else value


def _is_scalar(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() == 1


def _magnitudes(returned: Any) -> list[torch.Tensor]:
    values = returned if isinstance(returned, (tuple, list)) else (returned,)
    return [
        _local(value).float().abs().mean()
        for value in values
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel()
    ]


@contextmanager
def steps_observed(steps: Steps) -> Iterator[None]:
    """Report backwards and optimizer steps inside the block to ``steps``."""
    backward, make = torch.autograd.backward, torch.optim.Optimizer.__init__
    running = False

    def backward_(tensors: Any, *args: Any, **settings: Any) -> None:
        nonlocal running
        if running:  # a checkpoint differentiates inside
            backward(tensors, *args, **settings)
            return
        steps._differentiated(tensors if isinstance(tensors, (tuple, list)) else (tensors,))
        running = True
        try:
            backward(tensors, *args, **settings)
        finally:
            running = False
        steps._end(_BACKWARD)

    def make_(self: Any, *args: Any, **settings: Any) -> None:
        make(self, *args, **settings)
        steps._made()

    with ExitStack() as stack:
        for register, hook in (
            (register_optimizer_step_pre_hook, steps._before),
            (register_optimizer_step_post_hook, steps._after),
        ):
            stack.callback(register(hook).remove)
        stack.enter_context(replaced(torch.autograd, "backward", backward_))
        stack.enter_context(replaced(torch.optim.Optimizer, "__init__", make_))
        yield
