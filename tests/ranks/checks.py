"""What the ranks do; called by name through `pool.Pool`. Results are plain data."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

import domino_compile
from domino_compile import CompileReport
from domino_compile.backend import domino
from domino_compile.ops import tokens
from domino_compile.tools.bench.workload import Step, Workload
from tests.ranks import models

STEPS = 3
#: The function itself, so that ranks also run where the package is not installed.
BACKENDS = {"domino": domino}
Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Training:
    """What a training said on one rank.

    Attributes:
        losses: per step.
        weights: after the last step, this rank's part.
        reports: of every graph that domino compiled.
    """

    losses: list[float]
    weights: dict[str, torch.Tensor]
    reports: list[CompileReport]


def batches(rows: tuple[int, ...], rank: int = 0) -> list[Batch]:
    """A batch for each number of rows, of the tokens that a (data-parallel) rank sees."""
    generator = torch.Generator().manual_seed(rank)
    shape = (models.LENGTH + 1,)
    drawn = (torch.randint(models.VOCABULARY, (n, *shape), generator=generator) for n in rows)
    texts = [text.to(models.DEVICE) for text in drawn]
    return [(text[:, :-1].contiguous(), text[:, 1:].contiguous()) for text in texts]


def fit(model: nn.Module, step: Callable[..., torch.Tensor], data: list[Batch]) -> Training:
    """Adam steps on the batches; `step` is the model, compiled or not."""
    # A key's bias has no gradient but rounding, which Adam would blow up without this epsilon.
    # Adam for many tensors at once, the default on a GPU, refuses models that are DTensors in part.
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2, eps=1e-6, foreach=False)
    losses = []
    for batch in data:
        optimiser.zero_grad()
        loss = step(*batch)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    weights = {name: local(p).detach().cpu().clone() for name, p in model.named_parameters()}
    return Training(losses, weights, domino_compile.reports())


def local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def train(
    rank: int,
    world: int,
    form: str,
    dtype: str,
    backend: str,
    options: Mapping[str, object] | None = None,
    rows: tuple[int, ...] = (5,) * STEPS,
    mark: Mapping[str, int] | None = None,
) -> Training:
    """Train the model of a form; `backend` "none" is plain eager.

    `mark`, if given, marks the batch as dynamic with these bounds.
    """
    model = models.build(form, getattr(torch, dtype))
    data = batches(rows, rank // 2 if form == "two_groups" else 0)
    for tensor in itertools.chain(*data if mark is not None else ()):
        torch._dynamo.mark_dynamic(tensor, 0, **mark or {})
    if backend == "none":
        return fit(model, model, data)
    given = {"options": dict(options)} if options else {}
    return fit(model, torch.compile(model, backend=BACKENDS.get(backend, backend), **given), data)


def prefill(rank: int, world: int, form: str, options: Mapping[str, object]) -> dict[str, Any]:
    """The loss without gradients, uncut and cut."""
    model = models.build(form, torch.float64)
    (batch,) = batches((5,))
    with torch.no_grad():
        uncut = model(*batch).item()
        cut = torch.compile(model, backend=domino, options=dict(options))(*batch).item()
    return {"uncut": uncut, "cut": cut, "reports": domino_compile.reports()}


class Regression(models.TwoGroups):
    """Inputs that are not indices: their width is as good a candidate for the cut as their rows."""

    def forward(self, x: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + self.block(layer, x)
        return nn.functional.mse_loss(x, wanted) / 2


def regression_axis(rank: int, world: int) -> list[str]:
    """Where a model with large data-parallel reductions is cut."""
    torch.manual_seed(0)
    model = Regression()
    options = {"lowering": "eager", "slices": 2}
    compiled = torch.compile(model, backend=domino, options=options)
    fit(model, compiled, [(torch.randn(5, models.WIDTH), torch.randn(5, models.WIDTH))])
    return domino_compile.reports()[0].axis


class Overlapped(models.Funcol):
    """Megatron's asynchronous way: launch, compute something else, wait."""

    def block(self, layer: Any, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.gelu(x @ layer.up.T) @ layer.down.T
        work = dist.all_reduce(y, group=dist.group.WORLD, async_op=True)  # <async>
        beside = x.sin()
        work.wait()
        return y + beside


class Broken(models.Funcol):
    """A graph break between the layers' parts."""

    def block(self, layer: Any, x: torch.Tensor) -> torch.Tensor:
        y = super().block(layer, x)
        torch._dynamo.graph_break()
        return y * 2


BREAKING: dict[str, Callable[[], nn.Module]] = {"async": Overlapped, "break": Broken}


def train_with_breaks(rank: int, world: int, which: str) -> dict[str, Training]:
    """Train under domino and under the compiled reference."""
    models.FORMS.update(BREAKING)
    cut = train(rank, world, which, "float64", "domino", {"lowering": "eager", "slices": 2})
    torch._dynamo.reset()
    return {"cut": cut, "uncut": train(rank, world, which, "float64", "aot_eager")}


def dealt_tokens(rank: int, world: int) -> list[str]:
    """What is wrong when tokens of slices of various lengths are exchanged, and exchanged back."""
    assert dist.group.WORLD is not None
    name, wait = dist.group.WORLD.group_name, torch.ops._c10d_functional.wait_tensor
    wrong = []
    for lengths in ([4], [2, 2], [3, 1], [1, 3, 1], [5, 2, 4], [1, 1, 1, 4]):
        held = sum(lengths)
        mine = torch.arange(rank * held, (rank + 1) * held).reshape(-1, 1).double()
        ordered = tokens.arrange_tokens(mine, lengths, False, world, name)
        dealt = wait(tokens.all_to_all_tokens(ordered, lengths, False, world, name))
        starts = itertools.accumulate(lengths, initial=0)
        expected = [
            torch.arange(start * world + rank * length, start * world + (rank + 1) * length)
            for start, length in zip(starts, lengths, strict=False)
        ]
        if not torch.equal(dealt.flatten(), torch.cat(expected).double()):
            wrong.append(f"{lengths}: {dealt.flatten().tolist()}")
        back = wait(tokens.all_to_all_tokens(dealt, lengths, True, world, name))
        if not torch.equal(tokens.arrange_tokens(back, lengths, True, world, name), mine):
            wrong.append(f"{lengths}: {back.flatten().tolist()} came back")
        if tokens.is_arranged(lengths, world) and not torch.equal(ordered, mine):
            wrong.append(f"{lengths} need not be arranged, but are")
    return wrong


def exchanged(
    rank: int,
    world: int,
    style: str,
    granularity: str,
    options: Mapping[str, object],
    rows: int = 1,
) -> dict[str, Any]:
    """A step of sequences whose tokens the ranks divide, uncut and cut, and the reports."""
    work = Workload(
        *("tiny-llama", 2, rows, 16 * world, world, style),
        granularity=granularity,
        dtype="fp32",
    )
    assert dist.group.WORLD is not None
    domino_compile.reset_reports()

    def results(compile_: Callable[..., Any] | None) -> dict[str, torch.Tensor]:
        step = Step(work, dist.group.WORLD, models.DEVICE, compile_, exact=True)
        with torch.no_grad():
            for parameter in step.model.parameters():
                if parameter.ndim > 1:  # this rank's part of a layer
                    local(parameter).mul_(1 + 0.1 * rank)
        return step.results()

    uncut = results(None)
    cut = results(partial(torch.compile, backend=domino, options=dict(options)))
    return {"uncut": uncut, "cut": cut, "reports": domino_compile.reports()}
