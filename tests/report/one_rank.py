"""One rank of two, the other imagined, and a step of the program on it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from domino_compile import _compat, reset_reports
from tests.report.program import Model


@contextmanager
def one_of_two() -> Iterator[None]:
    """Forget what was compiled before and afterwards."""
    _compat.start_fake_group(2)
    torch._dynamo.reset()
    reset_reports()
    yield
    dist.destroy_process_group()
    reset_reports()
    torch._dynamo.reset()


def train_once(options: Mapping[str, object]) -> tuple[Tensor, list[Tensor]]:
    """The loss and the gradients of one step, lowered eagerly, in two slices by default."""
    torch.manual_seed(0)
    model = Model()
    chosen = {"lowering": "eager", "slices": 2, **options}
    compiled = torch.compile(model, backend="domino", options=chosen)
    loss = compiled(torch.randn(4, 8))
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters() if p.grad is not None]
