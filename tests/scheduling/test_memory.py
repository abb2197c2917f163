"""The estimated memory of a step is what the generated code allocates."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

import domino_compile
from domino_compile.backend import domino
from domino_compile.tools.bench.workload import Step, Workload
from tests.emitted.harness import fake_world, kernels_unbuilt

pytestmark = pytest.mark.xdist_group("emitted")


def peak_bytes(run: Callable[[], Any], live: int) -> tuple[int, int, Any]:
    """The most that lives while something runs, what lives afterwards, and what it returns."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = run()
    changes: list[tuple[int, int]] = []

    def collect(event: Any) -> None:
        if str(event.tag).endswith("Allocation"):
            changes.append((event.start_time_ns, event.extra_fields.alloc_size))
        for child in event.children:
            collect(child)

    for event in recorded.profiler.kineto_results.experimental_event_tree():
        collect(event)
    peak = live
    for _, change in sorted(changes, key=lambda entry: entry[0]):
        live += change
        peak = max(peak, live)
    return peak, live, result


# Seen with 2 layers, batch 8 of 128 tokens: tiny-gpt with 2 slices -1.4 %, uncut -3.4 %, tiny-llama
# 0.0 % and 0.0 %; with more layers, DTensor, a head, bf16, columns or forward only -4.9 to +1.5 %.
# What is off is one buffer of the size of the residual stream: whether a kernel may write over it
# depends on the order of loops within it, and Inductor moves fused kernels between products.
@pytest.mark.parametrize(("model", "slices"), [("tiny-gpt", 2), ("tiny-llama", 1)])
def test_of_a_training_step(model: str, slices: int) -> None:
    fake_world()
    torch._dynamo.reset()
    domino_compile.reset_reports()
    group = dist.group.WORLD
    assert group is not None
    work = Workload(model, 1, 8, 64, 2, dropout=0.1, dtype="fp32")
    options = {"slices": slices}
    with kernels_unbuilt():  # what is allocated does not depend on numbers
        step = Step(work, group, "cpu", lambda m: torch.compile(m, backend=domino, options=options))
        step()
    for parameter in step.model.parameters():
        parameter.grad = None
    held = sum(p.nbytes for p in step.model.parameters()) + sum(x.nbytes for x in step.inputs)
    forward, live, loss = peak_bytes(lambda: step.program(*step.inputs), held)
    backward, _, _ = peak_bytes(loss.backward, live)
    (report,) = domino_compile.reports()
    assert report.input_bytes == held
    assert {s.phase for s in report.schedules if s.step_peak_bytes} == {"forward", "backward"}
    assert report.step_peak_bytes == pytest.approx(max(forward, backward), rel=0.08)
