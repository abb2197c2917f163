"""The order in the generated code equals the plan; nothing is emitted that hurts overlap."""

import re
from functools import cache

import pytest

from tests.emitted.harness import (
    HIDDEN,
    SEQ,
    Compiled,
    body,
    compile_step,
    events,
    flights,
    launch_elements,
)

pytestmark = pytest.mark.xdist_group("emitted")
SLICES = (2, 3, 4)
ROWS = {2: 5, 3: 7, 4: 9}  # uneven, so that slices can be told apart by their size


BUILT = 3  # slices of the one whose numbers are looked at


@cache
def step(slices: int) -> Compiled:
    layers = 2 if slices == 2 else 1
    return compile_step(slices, batch=ROWS[slices], layers=layers, built=slices == BUILT)


def phases(compiled: Compiled) -> list[tuple[str, str, list[str]]]:
    """(phase, generated code, planned events) of forward and backward."""
    planned = {s.phase: s.events for s in compiled.report.schedules}
    assert set(planned) == {"forward", "backward"}
    forward, backward = compiled.codes
    return [
        ("forward", forward, planned["forward"]),
        ("backward", backward, planned["backward"]),
    ]


@pytest.mark.parametrize("slices", SLICES)
def test_everything_is_sliced(slices: int) -> None:
    report = step(slices).report
    assert report.status == "sliced"
    assert len(report.slices) == slices
    assert {c.action for c in report.collectives} == {"sliced"}
    assert report.joins == []


@pytest.mark.parametrize("slices", SLICES)
def test_emitted_order_is_the_planned_order(slices: int) -> None:
    for phase, code, planned in phases(step(slices)):
        assert events(code) == [event.split(" ")[0] for event in planned], phase


@pytest.mark.parametrize("slices", SLICES)
def test_launches_are_the_planned_slices(slices: int) -> None:
    compiled = step(slices)
    for phase, code, _ in phases(compiled):
        (schedule,) = (s for s in compiled.report.schedules if s.phase == phase)
        planned = [wire.bytes // 4 for wire in schedule.wires]
        assert launch_elements(code) == planned, phase


@pytest.mark.parametrize("slices", SLICES)
def test_collectives_fly(slices: int) -> None:
    """Matrix products run between each launch and its own wait, but for the last of a graph."""
    for phase, code, _ in phases(step(slices)):
        bare = sum(work == 0 for work in flights(code))
        assert bare <= 1, (phase, flights(code))


@pytest.mark.parametrize("slices", SLICES)
def test_collectives_work_in_place(slices: int) -> None:
    """No copy kernel in front of a collective: each works on the buffer of its input."""
    for phase, code, _ in phases(step(slices)):
        launches = [line for line in body(code) if "_c10d_functional.all_reduce" in line]
        assert launches, phase
        assert all("all_reduce_.default" in line for line in launches), (phase, launches)
        for position, line in enumerate(lines := list(body(code))):
            if "all_reduce_.default" in line:
                before = [x for x in lines[max(0, position - 4) : position] if "fused" in x]
                assert not any("_c10d_functional" in x or "copy" in x for x in before), before


@pytest.mark.parametrize("slices", SLICES)
def test_no_kernel_draws_a_whole_mask(slices: int) -> None:
    """Random numbers are drawn per slice: no kernel writes a mask of all rows."""
    whole = ROWS[slices] * SEQ * HIDDEN
    for _, code, _ in phases(step(slices)):
        for line in body(code):
            if re.search(r"empty_strided\w*\(", line) and "bool" in line:
                shape = re.search(r"\(\(([\d, ]+)\)", line)
                assert shape is not None
                count = 1
                for extent in shape.group(1).split(","):
                    count *= int(extent) if extent.strip() else 1
                assert count < whole, line


@pytest.mark.parametrize("slices", SLICES)
def test_no_kernel_mixes_slices(slices: int) -> None:
    kernels = step(slices).kernels
    assert any(kernels)
    assert all(len(inside) <= 1 for inside in kernels)


def test_memory_reordering_was_on() -> None:
    from torch._inductor import config

    assert config.reorder_for_peak_memory


def test_inference_graph() -> None:
    compiled = compile_step(2, batch=5, training=False)
    (code,) = compiled.codes
    (schedule,) = compiled.report.schedules
    assert schedule.phase == "inference"
    assert events(code) == [event.split(" ")[0] for event in schedule.events]


def test_slices_1_is_reordered_only() -> None:
    """Weight gradients go under the backward collectives without any slicing."""
    compiled = compile_step(1, batch=4)
    assert compiled.report.status == "reordered"
    assert compiled.report.slices == []
    for _, code, planned in phases(compiled):
        assert events(code) == [event.split(" ")[0] for event in planned]
    backward = events(compiled.codes[1])
    first = backward.index("launch")
    assert "matmul" in backward[first : backward.index("wait")]


def test_losses_and_gradients_equal_inductor() -> None:
    import torch

    from tests.emitted.harness import VOCAB, Model

    ours = step(BUILT)
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Model(1)
    tokens = torch.randint(0, VOCAB, (ROWS[BUILT], SEQ))
    compiled = torch.compile(model)
    torch.manual_seed(1)
    loss = compiled(tokens, tokens)
    loss.backward()
    assert float(loss) == pytest.approx(ours.loss, rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours.grads[name], parameter.grad, rtol=2e-5, atol=2e-6)
