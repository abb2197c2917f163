"""The benchmarked models: collectives where they belong, the same numbers in both styles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.utils._python_dispatch import TorchDispatchMode

from domino_compile.tools.bench.styles import Style
from domino_compile.tools.bench.variants import Variant
from domino_compile.tools.bench.workload import Step, Workload

pytestmark = pytest.mark.usefixtures("lone_rank")


def workload(model: str, **changes: object) -> Workload:
    asked: dict[str, object] = {"layers": 2, "batch": 4, "seq": 8, "tp": 2, "dtype": "fp32"}
    return Workload(model, **{**asked, **changes})  # type: ignore[arg-type]


def group() -> dist.ProcessGroup:
    assert dist.group.WORLD is not None
    return dist.group.WORLD


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("style", list(Style))
@pytest.mark.parametrize("model", ["tiny-gpt", "tiny-llama"])
def test_a_step_runs_and_communicates(model: str, style: str, head: bool) -> None:
    step = Step(workload(model, style=style, head=head), group(), "cpu")
    with torch.no_grad():  # DTensor's parameters are what the imagined first rank has sent
        for parameter in step.model.parameters():
            local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            local.normal_(std=0.02)
    with CommDebugMode() as counted:
        loss = step()
    assert loss.ndim == 0 and torch.isfinite(loss)
    grads = [p.grad for p in step.model.parameters()]
    assert all(g is not None for g in grads)
    # Two places a layer in forward and two in backward; with sequence parallelism two collectives
    # in each, and DTensor has one for each of a column-parallel layer's inputs in backward.
    per_place = 2 if Style(style).divides_tokens else 1
    assert counted.get_total_counts() >= (2 + 2) * per_place * 2
    step.forget()
    assert all(p.grad is None for p in step.model.parameters())


def test_forward_only_makes_no_gradients() -> None:
    step = Step(workload("tiny-gpt", training=False), group(), "cpu")
    assert not step().requires_grad
    assert all(p.grad is None for p in step.model.parameters())


def test_the_same_seed_makes_the_same_step() -> None:
    first, second = (Step(workload("tiny-llama"), group(), "cpu").results() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_float64_has_the_parameters_of_the_rounded_model() -> None:
    rounded = Step(workload("tiny-gpt", dtype="bf16"), group(), "cpu")
    exact = Step(workload("tiny-gpt", dtype="bf16"), group(), "cpu", exact=True)
    pairs = zip(rounded.model.parameters(), exact.model.parameters(), strict=True)
    assert all(b.dtype == torch.float64 and torch.equal(a.double(), b) for a, b in pairs)
    assert torch.equal(rounded.inputs[0].double(), exact.inputs[0])


@pytest.mark.parametrize("variant", [Variant("inductor"), Variant("domino", 2)])
def test_settings_of_variants_are_taken(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr(torch, "compile", lambda model, **settings: seen.update(settings))
    variant.compile(torch.nn.Identity(), cuda_graphs=True, link="demo-2")
    options = seen["options"]
    assert isinstance(options, dict)
    inductor = options["inductor"] if variant.domino else options
    assert inductor == {"triton.cudagraphs": True}
    assert options.get("slices") == variant.slices
    assert options.get("link") == ("demo-2" if variant.domino else None)


SP_ALIKE = [
    {"style": "sp"},
    {"style": "megatron-sp", "granularity": "block"},
    {"style": "megatron-sp", "ac": "full"},
    {"style": "megatron-sp", "ac": "selective", "granularity": "block"},
    {"style": "dtensor", "ac": "full", "granularity": "block"},
]


@pytest.mark.parametrize("changes", SP_ALIKE, ids=lambda changes: "-".join(changes.values()))
def test_checkpointing_and_parts_change_no_gradient(changes: dict[str, str]) -> None:
    """Also when the parts are called one by one, as they are when each is compiled."""
    work = workload("tiny-llama", **changes)
    plain = workload("tiny-llama", style=changes["style"])
    found = Step(work, group(), "cpu", lambda function: function, exact=True).results()
    expected = Step(plain, group(), "cpu", exact=True).results()
    assert found.keys() == expected.keys() and len(found) > 10
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("style", ["sp", "megatron-sp"])
def test_all_blocks_get_the_same_strides(style: str) -> None:
    """Of a single row too, so that they share one program."""
    given: list[torch.Tensor] = []

    def compile_(function: Any) -> Any:
        def call(*args: Any) -> Any:
            if "run_block" in function.__name__:
                given.append(args[1])
            if "begin" in function.__name__ and style == "sp":
                x, *angles = function(*args)  # Inductor returns a part of the whole row:
                return x.as_strided(x.shape, (2 * x.stride(0), *x.stride()[1:])), *angles
            return function(*args)

        return call

    work = workload("tiny-llama", style=style, batch=1, granularity="block")
    Step(work, group(), "cpu", compile_)()
    fresh = torch.empty(given[0].shape)
    assert [x.stride() for x in given] == [fresh.stride()] * 2


@pytest.mark.parametrize(
    ("ac", "attention", "again"), [("none", 1, 0), ("selective", 1, 3), ("full", 2, 6)]
)
def test_what_checkpointing_computes_again(ac: str, attention: int, again: int) -> None:
    """Of forward's operators, counted in a step of one block."""
    step = Step(workload("tiny-llama", layers=1, ac=ac), group(), "cpu")
    with Counter() as counted:
        step()
    assert counted.attention == attention
    # Seven products in forward and twice as many in backward. The last one is never needed again.
    assert counted.products - 3 * 7 == again


class Counter(TorchDispatchMode):
    """Counts products of matrices and attention, forward only."""

    def __init__(self) -> None:
        super().__init__()
        self.products = self.attention = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        self.products += name.startswith(("aten.mm.", "aten.addmm."))
        self.attention += "attention" in name and "backward" not in name
        return func(*args, **(kwargs or {}))
