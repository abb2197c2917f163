"""The yardstick for numbers: a loss with a gradient, float64 as judge, faults that are caught."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import fx

from domino_compile.backend import domino
from domino_compile.graph.slice_nodes import SliceNodes
from domino_compile.tools.bench.gradients import Error, compare, errors, worst
from domino_compile.tools.bench.reference import exact_results
from domino_compile.tools.bench.workload import Step, Workload

aten = torch.ops.aten


pytestmark = pytest.mark.usefixtures("lone_rank")


def workload(model: str = "tiny-llama", **changes: Any) -> Workload:
    asked: dict[str, Any] = {"layers": 1, "batch": 2, "seq": 16, "tp": 2, "dtype": "fp32"}
    return Workload(model, **{**asked, **changes})


def group() -> dist.ProcessGroup:
    assert dist.group.WORLD is not None
    return dist.group.WORLD


@pytest.mark.parametrize(
    ("model", "style", "training", "head"),
    [
        ("tiny-gpt", "megatron", True, True),
        ("tiny-llama", "megatron-sp", True, False),
        ("tiny-llama", "sp", True, False),
        ("tiny-llama", "dtensor", False, False),
    ],
)
def test_float64_row_by_row_is_the_step_in_float64(
    model: str, style: str, training: bool, head: bool
) -> None:
    work = workload(model, style=style, training=training, head=head)
    found = exact_results(work, group(), "cpu")
    expected = Step(work, group(), "cpu", exact=True).results()
    assert found.keys() == expected.keys()
    assert all(value.dtype == torch.float64 for value in found.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("model", ["tiny-gpt", "tiny-llama"])
def test_the_loss_has_a_gradient_in_every_parameter(model: str) -> None:
    work = workload(model, layers=2)
    found = errors(Step(work, group(), "cpu").results(), exact_results(work, group(), "cpu"))
    # Of a loss whose gradient is rounding noise these would be about 1.
    assert len(found) > 10 and all(error.relative < 1e-5 for error in found.values())


def test_each_parameter_counts_on_its_own() -> None:
    base = {"loss": Error(1e-9, 0.0), "large": Error(0.01, 0.002), "small": Error(0.01, 0.002)}
    found = base | {"small": Error(0.02, 0.002)}
    assert compare(found, base).name == "small" and compare(found, base).ratio == pytest.approx(2)
    assert compare(base, base).passes and not compare(found, base).passes
    assert worst(found) == 0.02


def test_the_loss_does_not_count_beside_gradients() -> None:
    base = {"loss": Error(1e-9, 0.0), "weight": Error(0.01, 0.002)}
    assert compare(base | {"loss": Error(1.0, 0.0)}, base).passes
    assert not compare({"loss": Error(1.0, 0.0)}, {"loss": Error(1e-3, 0.0)}).passes


def test_an_error_below_rounding_is_no_merit_of_the_other() -> None:
    base, found = {"weight": Error(1e-9, 0.002)}, {"weight": Error(0.002, 0.002)}
    assert compare(found, base).ratio == 1


@pytest.mark.parametrize("found", [{}, {"weight": torch.full((3,), float("nan"))}])
def test_a_gradient_that_is_missing_or_no_number_is_wrong(found: dict[str, torch.Tensor]) -> None:
    exact = {"weight": torch.ones(3, dtype=torch.float64)}
    good = errors({"weight": torch.ones(3)}, exact)
    assert worst(errors(found, exact)) >= 1 and not compare(errors(found, exact), good).passes


# -- programs with a fault -------------------------------------------------------------------------

Call = Callable[..., fx.Node]


def drop_a_summand(args: tuple[Any, ...], value: Any) -> tuple[Any, ...] | None:
    """The first slice's part of a weight's gradient is all there is of it."""
    return args[:1] if value is not None and value.ndim == 2 else None


def swap_a_join(args: tuple[Any, ...], value: Any) -> tuple[Any, ...] | None:
    """The parts of a value are joined in the wrong order."""
    pieces, dim = args
    same = len({tuple(piece.meta["val"].shape) for piece in pieces}) == 1
    return (list(reversed(pieces)), dim) if same else None


def once(target: Any, change: Callable[..., tuple[Any, ...] | None], done: list[int]) -> Call:
    """``SliceNodes.whole_call``, which gets one call of ``target`` wrong."""
    right = SliceNodes.whole_call

    def wrong(
        self: SliceNodes, like: fx.Node, called: Any, args: Any, value: Any = None
    ) -> fx.Node:
        changed = None
        if called is target and not done:
            changed = change(args, like.meta.get("val") if value is None else value)
        if changed is None:
            return right(self, like, called, args, value)
        done.append(1)
        if len(changed) == 1:
            kept: fx.Node = changed[0]
            return kept
        return right(self, like, called, changed, value)

    return wrong


def results(work: Workload, **options: Any) -> dict[str, torch.Tensor]:
    torch._dynamo.reset()
    # The check would find the faults first.
    options |= {"lowering": "eager", "check_ranks": False, "verify": "off"}
    return Step(
        work, group(), "cpu", partial(torch.compile, backend=domino, options=options)
    ).results()


@cache
def judged() -> tuple[Workload, dict[str, torch.Tensor], dict[str, Error]]:
    """A workload, float64's results and the errors of the program that is not cut."""
    work = workload("tiny-gpt", dtype="bf16")
    exact = exact_results(work, group(), "cpu")
    return work, exact, errors(results(work, slices=1), exact)


@pytest.mark.parametrize(
    ("cut", "target", "change"),
    [
        ({"slices": 2}, aten.add.Tensor, drop_a_summand),
        ({"slices": 1, "columns": 2}, aten.cat.default, swap_a_join),
    ],
)
def test_a_fault_in_one_place_is_caught(
    cut: dict[str, int], target: Any, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, exact, base = judged()
    assert compare(errors(results(work, **cut), exact), base).passes
    done: list[int] = []
    monkeypatch.setattr(SliceNodes, "whole_call", once(target, change, done))
    found = compare(errors(results(work, **cut), exact), base)
    assert done and not found.passes and found.ratio > 3
