"""A sequence whose tokens the ranks divide: the generated code exchanges them as planned.

That the numbers are right is tested in ``tests/ranks/test_exchanged.py``.
"""

import pytest
import torch
from torch._inductor.utils import run_and_get_code

import domino_compile
from tests.emitted.harness import events, kernels_unbuilt
from tests.rules.capturing import fake_group
from tests.rules.test_dealt import H, block

pytestmark = pytest.mark.xdist_group("emitted")


@pytest.mark.parametrize("slices", [2, 3])
def test_exchanges_are_emitted_as_planned(slices: int) -> None:
    fake_group()
    torch._dynamo.reset()
    domino_compile.reset_reports()

    def step(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        return block(x, *weights, dim=1)

    shapes = [(1, 4, H), (H,), (H, 3 * 8), (8, H), (H, 6), (6, H)]
    x, *weights = (torch.randn(shape, requires_grad=True) for shape in shapes)
    options = {"slices": slices, "verify": "strict"}
    program = torch.compile(step, backend="domino", options=options)
    with kernels_unbuilt():
        _, codes = run_and_get_code(lambda: program(x, *weights).sum().backward())
    (report,) = domino_compile.reports()
    planned = {s.phase: s.events for s in report.schedules}
    for phase, code in zip(("forward", "backward"), codes, strict=True):
        assert events(code) == [event.split(" ")[0] for event in planned[phase]], phase
        exchanges = code.count("torch.ops.domino_compile.all_to_all_tokens.default(")
        assert exchanges == 2 and "own_part" not in code, phase
