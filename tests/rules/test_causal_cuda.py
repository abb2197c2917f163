"""The CUDA kernels of causal attention, their tokens cut, against float64 (needs a GPU)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.rules.capturing import Captured
from tests.rules.test_causal import KERNELS, plan_of, trace

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
#: Tokens and slices of multiples of nothing: padding of the log-sum-exp is met as well.
TOKENS, SIZES = 384, ((192, 192), (240, 144), (129, 128, 127))


def results(captured: Captured, graph: Any, dtype: torch.dtype) -> list[torch.Tensor]:
    """What a graph returns on the GPU, run by its operators."""
    inputs = [x.to("cuda", dtype) for x in captured.inputs]
    module = torch.fx.GraphModule(torch.nn.Module(), graph)
    return [x.double().cpu() for x in torch.fx.Interpreter(module).run(*inputs)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", ["flash", "efficient", "cudnn"])
def test_slices_are_as_exact_as_the_whole(name: str, sizes: tuple[int, ...]) -> None:
    whole = trace(KERNELS[name], tokens=TOKENS, width=64, dtype=torch.bfloat16)
    exact = trace(KERNELS["cpu"], tokens=TOKENS, width=64, device="cpu")
    exact.inputs = [x.to(torch.bfloat16).double() for x in whole.inputs]
    truth = [x.double() for x in exact.run(exact.graph)]
    uncut = results(whole, whole.graph, torch.bfloat16)
    sliced = results(whole, whole.sliced(plan_of(whole, sizes)), torch.bfloat16)
    for want, one, two in zip(truth, uncut, sliced, strict=True):
        errors = [float((x - want).norm() / want.norm()) for x in (one, two)]
        assert errors[1] < 1.5 * errors[0] + 1e-4, (name, sizes, errors)
