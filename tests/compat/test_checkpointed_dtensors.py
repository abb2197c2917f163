"""DTensor tensor parallelism with checkpointed attention, on versions of torch that can compile it.

torch 2.13.0 cannot, whatever the backend (docs/frameworks.md tells users); 2.11 and 2.14.1 can.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.checkpoint import checkpoint

import domino_compile

CANNOT = torch.__version__.startswith("2.13.0")
WIDTH, HEADS = 16, 4


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(y.transpose(1, 2).flatten(2))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Attention()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.block, x, use_reentrant=False).pow(2).mean()


@pytest.fixture(autouse=True)
def _two_ranks() -> Iterator[None]:
    if dist.is_initialized():
        yield
        return
    with domino_compile.fake_ranks(2):
        yield


def step(**compiled: Any) -> list[torch.Tensor]:
    """The loss and the gradients of one step."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Checkpointed()
    plan = {name: ColwiseParallel() for name in "qkv"} | {"out": RowwiseParallel()}
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    parallelize_module(model.block, mesh, plan, src_data_rank=None)  # a fake group sends nothing
    if compiled:
        model.compile(**compiled)
    x = torch.randn(4, 6, WIDTH, generator=torch.Generator().manual_seed(1))
    loss = model(x)
    loss.backward()
    grads = [p.grad for p in model.parameters()]
    return [loss, *(g.to_local() if isinstance(g, DTensor) else g for g in grads if g is not None)]


@pytest.mark.skipif(CANNOT, reason="torch 2.13.0 cannot, whatever the backend")
def test_checkpointed_attention_is_cut_and_its_numbers_stay() -> None:
    expected = step()
    options = {"slices": 2, "lowering": "eager", "check_ranks": False}
    domino_compile.reset_reports()
    for found, right in zip(step(backend="domino", options=options), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-6)
    (report,) = domino_compile.reports()
    assert report.status == "sliced"


@pytest.mark.skipif(not CANNOT, reason="torch 2.13.0 alone")
def test_it_is_torch_that_cannot() -> None:
    with pytest.raises(AssertionError, match="tensors_saved_with_vc_check"):
        step(backend="aot_eager")
