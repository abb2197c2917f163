"""Columns: what Inductor emits for weights cut alone, and for rows and columns at once."""

import re
from functools import cache

import pytest

from tests.emitted.harness import Compiled, body, compile_step, events, flights
from tests.emitted.test_order import phases

pytestmark = pytest.mark.xdist_group("emitted columns")
#: Slices and rows of the batch.
CASES = {"columns alone": (1, 1), "rows and columns": (2, 3)}


@cache
def step(case: str) -> Compiled:
    slices, batch = CASES[case]
    return compile_step(slices, batch=batch, columns=2, layers=1, built=case == "columns alone")


@pytest.mark.parametrize("case", CASES)
def test_everything_is_cut(case: str) -> None:
    report = step(case).report
    assert report.status == "sliced" and report.columns == ["16", "16"]
    assert bool(report.slices) == (case == "rows and columns")
    assert {c.action for c in report.collectives} == {"sliced"}


@pytest.mark.parametrize("case", CASES)
def test_emitted_order_is_the_planned_order(case: str) -> None:
    for phase, code, planned in phases(step(case)):
        assert events(code) == [event.split(" ")[0] for event in planned], phase


@pytest.mark.parametrize("case", CASES)
def test_the_first_part_flies_under_the_second_product(case: str) -> None:
    for phase, code, _ in phases(step(case)):
        found = flights(code)
        assert sum(work > 0 for work in found) >= len(found) // 2, (phase, found)


@pytest.mark.parametrize("case", CASES)
def test_collectives_work_in_place(case: str) -> None:
    for _, code, _ in phases(step(case)):
        launches = [line for line in body(code) if "_c10d_functional.all_reduce" in line]
        assert launches and all("all_reduce_.default" in line for line in launches)


@pytest.mark.parametrize("case", CASES)
def test_joins_take_no_kernel_of_their_own(case: str) -> None:
    """Parts are joined inside the kernel that needs them together."""
    for _, code, _ in phases(step(case)):
        kernels = re.findall(r"\w+_fused_(\w+?)_\d+\(", "\n".join(body(code)))
        assert kernels and not {"cat", "cat_view", "copy", "clone", "clone_view"} & set(kernels)


def test_losses_and_gradients_are_those_of_the_uncut_program() -> None:
    import torch

    uncut = compile_step(1, batch=1, layers=1, built=True)
    ours = step("columns alone")
    assert ours.loss == pytest.approx(uncut.loss, rel=1e-6)
    for name, grad in uncut.grads.items():
        torch.testing.assert_close(ours.grads[name], grad, rtol=2e-5, atol=2e-6)
