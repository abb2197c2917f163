"""The measured workload: one model, its inputs and one step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import torch
import torch.distributed as dist

from domino_compile.errors import did_you_mean
from domino_compile.tools.bench import float8
from domino_compile.tools.bench.checkpointing import Checkpointing
from domino_compile.tools.bench.models import Model, make_model
from domino_compile.tools.bench.shapes import BenchError, ModelShape, shape_of
from domino_compile.tools.bench.styles import Parallel, Style

_count = itertools.count()
#: Types of parameters and activations, by the names that ``--dtype`` accepts.
DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    **dict.fromkeys(float8.RECIPES, torch.bfloat16),
}
#: A function that compiles another function to a program.
Compile = Callable[[Callable[..., Any]], Callable[..., Any]]


class Granularity(StrEnum):
    """The unit of compilation, by the names that ``--compile`` accepts."""

    WHOLE = "whole"
    BLOCK = "block"


def _names(choices: type[StrEnum]) -> tuple[str, ...]:
    return tuple(choice.value for choice in choices)


#: Fields with a choice of names; the name of the option can differ from the field.
CHOICES: dict[str, tuple[str, tuple[str, ...]]] = {
    "style": ("style", _names(Style)),
    "ac": ("ac", _names(Checkpointing)),
    "granularity": ("compile", _names(Granularity)),
    "dtype": ("dtype", tuple(DTYPES)),
}


@dataclass(frozen=True)
class Workload:
    """A model and the size of its step.

    Attributes:
        model: A name in ``shapes.SHAPES``.
        layers: The number of blocks.
        batch: The rows of the batch.
        seq: The tokens per row.
        tp: The number of ranks that share the layers.
        style: How they share them; see ``styles.Style``.
        training: Whether to run backward too; otherwise only forward, without gradients.
        head: Whether to include embedding, head and cross entropy; if not, inputs are activations.
        dropout: The dropout of the residual branches.
        dtype: A name of ``DTYPES``. Products of float8 are taken of bf16 values.
        ac: The activation checkpointing; see ``checkpointing.Checkpointing``.
        granularity: The unit of compilation; see ``Granularity``.
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
    ac: str = "none"
    granularity: str = "whole"

    def __post_init__(self) -> None:
        for name in ("layers", "batch", "seq"):
            if getattr(self, name) < 1:
                raise BenchError(f"--{name} must be at least 1, not {getattr(self, name)}")
        if self.tp < 2:
            raise BenchError(
                f"--tp must be at least 2, not {self.tp}: a single rank does not communicate"
            )
        self.shape.divided_by(self.tp)
        if not 0 <= self.dropout < 1:
            raise BenchError(f"--dropout must be at least 0 and less than 1, not {self.dropout}")
        for name, (option, allowed) in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                hint = did_you_mean(value, allowed)
                known = ", ".join(allowed)
                raise BenchError(f"--{option}: unknown {value!r}{hint}; known: {known}")
        if self.parallel_style.divides_tokens and self.seq % self.tp:
            raise BenchError(
                f"--seq {self.seq} cannot be divided among --tp {self.tp}: with --style "
                f"{self.style} each rank holds an equal part of the tokens"
            )
        if self.ac != Checkpointing.NONE and not self.training:
            raise BenchError("--ac needs training: a forward pass alone saves nothing for backward")

    @property
    def shape(self) -> ModelShape:
        """Return the model's dimensions."""
        return shape_of(self.model)

    @property
    def hidden_bytes(self) -> int:
        """Return the bytes of the hidden states of all tokens."""
        return self.batch * self.seq * self.shape.hidden * DTYPES[self.dtype].itemsize

    @property
    def parallel_style(self) -> Style:
        """Return how ranks share the layers."""
        return Style(self.style)

    def without_dropout(self) -> Workload:
        """Return the workload without dropout, so that random numbers do not matter."""
        return replace(self, dropout=0.0)


class Step:
    """One model with its inputs, and a step of it.

    Args:
        workload: The workload to build; parameters and inputs depend on nothing else.
        group: The tensor-parallel group.
        device: ``cuda`` or ``cpu``.
        compile_: A function that compiles the program; ``None`` runs it uncompiled.
        exact: Whether to use float64, with the same parameters and inputs (rounded to the
            workload's dtype).
    """

    def __init__(
        self,
        workload: Workload,
        group: dist.ProcessGroup,
        device: str,
        compile_: Compile | None = None,
        exact: bool = False,
    ) -> None:
        self.workload, self.device = workload, device
        torch.manual_seed(0)
        self.model = make_model(
            workload.shape,
            workload.layers,
            Parallel.of(workload.parallel_style, group, device),
            dropout=workload.dropout,
            head=workload.head,
            device=device,
            dtype=DTYPES[workload.dtype],
            checkpointing=Checkpointing(workload.ac),
            convert=partial(float8.convert, dtype="" if exact else workload.dtype),
        )
        if exact:
            self.model.double()
        self.inputs = inputs_of(workload, device, exact)
        self.program: Callable[..., torch.Tensor] = self.model
        if compile_ is not None:
            granularity = Granularity(workload.granularity)
            make = by_block if granularity is Granularity.BLOCK else as_a_whole
            self.program = make(self.model, compile_)

    def __call__(self) -> torch.Tensor:
        """Run one step and return the loss. Gradients are replaced, not accumulated."""
        if self.device == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        if not self.workload.training:
            with torch.no_grad():
                return self.program(*self.inputs)
        self.forget()
        loss = self.program(*self.inputs)
        loss.backward()
        return loss.detach()

    def forget(self) -> None:
        """Free the gradients."""
        for parameter in self.model.parameters():
            parameter.grad = None

    def results(self) -> dict[str, torch.Tensor]:
        """Return this rank's gradients and the loss of one step with a fixed seed, on the CPU.

        A forward pass alone returns the loss or, without head, the hidden states.
        """
        torch.manual_seed(1)
        outcome = "loss" if self.workload.training or self.workload.head else "output"
        results = {outcome: self().detach().clone()} | gradients_of(self.model)
        return {name: value.cpu() for name, value in results.items()}


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return this rank's part of each parameter's gradient, by the parameter's name."""
    gradients: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        if grad is not None:
            local = grad.to_local() if hasattr(grad, "to_local") else grad
            gradients[name] = local.detach()
    return gradients


def inputs_of(workload: Workload, device: str, exact: bool = False) -> tuple[torch.Tensor, ...]:
    """Return the model's inputs for a step, which are always the same.

    Returns:
        Hidden states and, in training, the direction of the loss; with ``head`` tokens and labels.
        Rows come first, or tokens if the style puts them first.
    """
    generator = torch.Generator(device).manual_seed(2)
    drawing: Any = {"generator": generator, "device": device}
    rows = (workload.batch, workload.seq)
    made: list[torch.Tensor] = []
    if workload.head:
        made.extend(torch.randint(workload.shape.vocabulary, (2, *rows), **drawing))
    else:
        for _ in range(2 if workload.training else 1):
            size = (*rows, workload.shape.hidden)
            hidden = torch.randn(*size, dtype=DTYPES[workload.dtype], **drawing)
            made.append(hidden.double() if exact else hidden)
    if workload.parallel_style.tokens_first:
        made = [value.transpose(0, 1).contiguous() for value in made]
    return tuple(made)


def as_a_whole(model: Model, compile_: Compile) -> Callable[..., torch.Tensor]:
    """Compile the model as one program."""

    def call(*inputs: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = model(*inputs)
        return loss

    return compile_(_separate(call))


def by_block(model: Model, compile_: Compile) -> Callable[..., torch.Tensor]:
    """Compile one program that all blocks share, and one for each end of the model."""

    def begin(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return model.begin(x)

    def run_block(block: torch.nn.Module, *args: torch.Tensor) -> torch.Tensor:
        return model.run_block(block, *args)

    def finish(x: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        return model.finish(x, target)

    first, middle, last = (compile_(_separate(part)) for part in (begin, run_block, finish))

    def call(x: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        x, *angles = first(x)
        # This rank's tokens of a single row keep the stride of the whole row. A block's result does
        # not, and Dynamo would compile the blocks again, for strides that change. (DTensor cannot
        # be traced with such strides in a checkpointed block.)
        x = x.flatten().view(x.shape)
        if torch.is_grad_enabled() and not x.requires_grad:
            # As if a trained embedding came before it, so that the first block shares the program
            # of the others.
            x = x.detach().requires_grad_()
        for block in model.blocks:
            x = middle(block, x, *angles)
        loss: torch.Tensor = last(x, target)
        return loss

    return call


def _separate(function: Any) -> Callable[..., Any]:
    """Return the same function with a separate code object.

    Dynamo caches compiled programs by code object. Two variants that compile alike (with and
    without free collectives) would otherwise share a program, and with it a recorded CUDA graph.
    """
    code: CodeType = function.__code__
    separate = code.replace(co_name=f"{code.co_name}_{next(_count)}")
    return FunctionType(separate, function.__globals__, closure=function.__closure__)
