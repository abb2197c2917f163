"""What is measured: one model, its inputs and one step of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import torch
import torch.distributed as dist

from domino_compile.errors import did_you_mean
from domino_compile.tools.bench.models import STYLES, Model, Parallel, make_model
from domino_compile.tools.bench.shapes import BenchError, ModelShape, shape_of

_count = itertools.count()
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Workload:
    """A model and the size of its step.

    Attributes:
        model: a name of ``shapes.SHAPES``.
        layers: how many blocks.
        batch: rows of the batch.
        seq: tokens of a row.
        tp: ranks that share the layers.
        style: ``megatron`` or ``dtensor``, see ``models.Parallel``.
        training: forward and backward; else forward only, without gradients.
        head: with embedding, head and cross entropy; else on hidden states.
        dropout: of the residual branches.
        dtype: ``bf16``, ``fp16`` or ``fp32``.
    """

    model: str
    layers: int
    batch: int
    seq: int
    tp: int
    style: str = "megatron"
    training: bool = True
    head: bool = False
    dropout: float = 0.0
    dtype: str = "bf16"

    def __post_init__(self) -> None:
        for name in ("layers", "batch", "seq"):
            if getattr(self, name) < 1:
                raise BenchError(f"--{name} must be at least 1, not {getattr(self, name)}")
        if self.tp < 2:
            raise BenchError(
                f"--tp must be at least 2, not {self.tp}: one rank communicates nothing"
            )
        self.shape.divided_by(self.tp)
        if not 0 <= self.dropout < 1:
            raise BenchError(f"--dropout must be at least 0 and less than 1, not {self.dropout}")
        for name, allowed in (("style", STYLES), ("dtype", tuple(DTYPES))):
            value = getattr(self, name)
            if value not in allowed:
                hint = did_you_mean(value, allowed)
                raise BenchError(f"--{name}: unknown {value!r}{hint}; known: {', '.join(allowed)}")

    @property
    def shape(self) -> ModelShape:
        """The model's dimensions."""
        return shape_of(self.model)

    def without_dropout(self) -> Workload:
        """The same, comparable with a program that draws other random numbers."""
        return replace(self, dropout=0.0)


class Step:
    """One model with its inputs, and a step of it.

    Args:
        workload: what to build; parameters and inputs depend on nothing else.
        group: the tensor-parallel group.
        device: ``cuda`` or ``cpu``.
        compile_: makes the program of the model's call; ``None`` runs it as it is.
        exact: in float64, with the same parameters and inputs (rounded to the workload's dtype).
    """

    def __init__(
        self,
        workload: Workload,
        group: dist.ProcessGroup,
        device: str,
        compile_: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None,
        exact: bool = False,
    ) -> None:
        self.workload, self.device = workload, device
        torch.manual_seed(0)
        self.model = make_model(
            workload.shape,
            workload.layers,
            Parallel(workload.style, group),
            dropout=workload.dropout,
            head=workload.head,
            device=device,
            dtype=DTYPES[workload.dtype],
        )
        if exact:
            self.model.double()
        self.inputs = self._inputs(exact)
        self.program = self.model if compile_ is None else compile_(_own_code(self.model))

    def _inputs(self, exact: bool) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(2)
        work = self.workload
        if work.head:
            shape = (2, work.batch, work.seq)
            drawn = torch.randint(work.shape.vocabulary, shape, generator=generator)
            tokens, labels = drawn.to(self.device)
            return tokens, labels
        hidden = torch.randn(work.batch, work.seq, work.shape.hidden, generator=generator)
        hidden = hidden.to(self.device, DTYPES[work.dtype])
        return (hidden.double() if exact else hidden,)

    def __call__(self) -> torch.Tensor:
        """One step; returns the loss. Gradients are made anew, not added up."""
        if self.device == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        if not self.workload.training:
            with torch.no_grad():
                forward: torch.Tensor = self.program(*self.inputs)
            return forward
        self.forget()
        loss: torch.Tensor = self.program(*self.inputs)
        loss.backward()
        return loss.detach()

    def forget(self) -> None:
        """Let go of the gradients."""
        for parameter in self.model.parameters():
            parameter.grad = None

    def results(self) -> dict[str, torch.Tensor]:
        """The loss and this rank's gradients of one step with a fixed seed, on the CPU."""
        torch.manual_seed(1)
        found = {"loss": self().detach().clone()}
        for name, parameter in self.model.named_parameters():
            grad = parameter.grad
            if grad is not None:
                local = grad.to_local() if hasattr(grad, "to_local") else grad
                found[name] = local.detach()
        return {name: value.cpu() for name, value in found.items()}


def _own_code(model: Model) -> Callable[..., Any]:
    """A function that calls the model and has a code object of its own.

    Dynamo keeps compiled programs by code object: two variants that are compiled alike (with and
    without free collectives) would otherwise share one, and with it one recorded CUDA graph.
    """

    def call(*inputs: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = model(*inputs)
        return loss

    own = call.__code__.replace(co_name=f"step_{next(_count)}")
    return FunctionType(own, call.__globals__, closure=call.__closure__)


def relative_error(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], device: str = "cpu"
) -> float:
    """The difference of all values together, over their norm; computed on a device in float64."""
    off = norm = 0.0
    for name, value in expected.items():
        exact = value.to(device).double()
        off += float((found[name].to(device).double() - exact).square().sum())
        norm += float(exact.square().sum())
    return float((off / norm) ** 0.5)
