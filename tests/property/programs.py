"""A generated program: what it is made of, its source, and running it cut and uncut.

``forward`` is kept as source lines, so that a failing example prints as a program that can be
read and pasted; ``steps`` generates the lines.
"""

from __future__ import annotations

import linecache
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from textwrap import dedent
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from tests.property import collectives, lone_rank

#: What a selective policy saves.
SAVED = [torch.ops.aten.mm.default, torch.ops.aten.bmm.default]

HEAD = re.compile(r"# (\d) slices, (\w+)")
MEMBER = re.compile(r"# self\.(\w+): (parameter|buffer)\[(.*)\]")
INPUT = re.compile(r"# (\w+): (\w+)\[(.*?)\](?: < (\d+|inf))?")


@dataclass(frozen=True)
class Input:
    """One argument of the program.

    ``kind`` is ``float``, ``grad`` (float that requires a gradient), ``mask``, or
    ``tokens``, ``distinct`` (no number twice) and ``labels`` (with some -100) below ``high``.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    high: int = 0

    def make(self, dtype: torch.dtype) -> torch.Tensor:
        if self.kind in ("float", "grad"):
            return torch.randn(self.shape, dtype=dtype).requires_grad_(self.kind == "grad")
        if self.kind == "mask":
            return torch.rand(self.shape) < 0.7
        if self.kind == "distinct":
            return torch.randperm(self.high)[: math.prod(self.shape)].view(self.shape)
        tokens = torch.randint(0, self.high, self.shape)
        return (
            tokens.masked_fill(torch.rand(self.shape) < 0.3, -100)
            if self.kind == "labels"
            else tokens
        )


@dataclass(frozen=True)
class Program:
    """A small training program."""

    lines: tuple[str, ...]
    returns: tuple[str, ...]
    inputs: tuple[Input, ...]
    params: dict[str, tuple[int, ...]]
    buffers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    slices: int = 2
    training: bool = True
    features: frozenset[str] = frozenset()

    @staticmethod
    def recomputed(run: Callable[..., Any], *args: Any, policy: str = "all") -> Any:
        """A checkpointed part of the program.

        Args:
            run: computes it.
            args: its arguments.
            policy: ``all`` is computed again in backward, or what is no product (``products``).
        """
        context: dict[str, Any] = {}
        if policy == "products":
            context["context_fn"] = partial(create_selective_checkpoint_contexts, SAVED)
        return checkpoint(run, *args, use_reentrant=False, **context)

    @property
    def source(self) -> str:
        arguments = ", ".join(("self", *(x.name for x in self.inputs)))
        body = "".join(f"    {line}\n" for line in self.lines)
        return f"def forward({arguments}):\n{body}    return ({', '.join(self.returns)},)\n"

    def __repr__(self) -> str:
        declared = [
            f"{x.name}: {x.kind}{list(x.shape)}" + f" < {x.high}" * bool(x.high)
            for x in self.inputs
        ]
        declared += [f"self.{n}: parameter{list(s)}" for n, s in self.params.items()]
        declared += [f"self.{n}: buffer{list(s)}" for n, s in self.buffers.items()]
        mode = "training" if self.training else "inference"
        head = "".join(f"# {line}\n" for line in [f"{self.slices} slices, {mode}", *declared])
        return f"\n{head}{self.source}"

    def module(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The program as a module with seeded parameters."""
        torch.manual_seed(0)
        module = nn.Module()
        for name, shape in self.params.items():
            scale = 0.5 if len(shape) > 1 else 1.0
            setattr(module, name, nn.Parameter(torch.randn(shape, dtype=dtype) * scale))
        for name, shape in self.buffers.items():
            module.register_buffer(name, torch.zeros(shape, dtype=dtype) + 0.5)
        module.forward = self._function().__get__(module)  # type: ignore[method-assign]
        return module

    def _function(self) -> Callable[..., Any]:
        filename = f"<program {hash(self.source)}>"
        linecache.cache[filename] = (len(self.source), None, self.source.splitlines(True), filename)
        scope: dict[str, Any] = {f.__name__: f for f in collectives.CALLED}
        scope["checkpoint"] = self.recomputed
        scope |= {"torch": torch, "F": F, **lone_rank.start()}
        exec(compile(self.source, filename, "exec"), scope)
        made: Callable[..., Any] = scope["forward"]
        return made


@dataclass
class Result:
    """Everything a run leaves behind, by name."""

    values: dict[str, torch.Tensor]

    def errors(self, reference: Result) -> dict[str, float]:
        """The relative error of each value.

        A value that is zero in exact arithmetic has no relative error: values are measured
        against at least a hundredth of the largest one of their kind.
        """
        assert self.values.keys() == reference.values.keys()
        largest: dict[str, float] = {}
        for name, value in reference.values.items():
            kind = name.split()[0]
            largest[kind] = max(largest.get(kind, 0.0), _norm(value))
        found = {}
        for name, value in self.values.items():
            expected = reference.values[name]
            assert value.shape == expected.shape and value.dtype == expected.dtype, name
            scale = max(_norm(expected), 0.01 * largest[name.split()[0]], 1e-30)
            found[name] = (
                _norm(value - expected if value.is_floating_point() else value ^ expected) / scale
            )
        return found


def _norm(value: torch.Tensor) -> float:
    return float(value.detach().double().norm())


def run(
    program: Program,
    wrap: Callable[[nn.Module], Callable[..., Any]] = lambda module: module,
    dtype: torch.dtype = torch.float64,
) -> Result:
    """Run the program once, forward and (in training) backward with random output gradients.

    Args:
        program: the program.
        wrap: ``torch.compile`` or nothing.
        dtype: of parameters, buffers and float inputs.
    """
    module = program.module(dtype)
    torch.manual_seed(1)
    inputs = [x.make(dtype) for x in program.inputs]
    torch.manual_seed(2)
    with torch.set_grad_enabled(program.training):
        outputs = wrap(module)(*inputs)
    values = {f"output {i}": x.detach().clone() for i, x in enumerate(outputs)}
    values |= {f"buffer {n}": b.detach().clone() for n, b in module.named_buffers()}
    torch.manual_seed(3)
    if loss := [x for x in outputs if x.requires_grad]:
        torch.autograd.backward(loss, [torch.randn(x.shape, dtype=x.dtype) for x in loss])
    values |= {f"gradient {n}": g for n, g in _gradients(module, program, inputs)}
    for x, value in zip(program.inputs, inputs, strict=True):
        values[f"input {x.name}"] = value.detach().clone()
    return Result(values)


def _gradients(
    module: nn.Module, program: Program, inputs: list[torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            yield name, parameter.grad
    for x, value in zip(program.inputs, inputs, strict=True):
        if value.grad is not None:
            yield f"of {x.name}", value.grad


def parse(text: str) -> Program:
    """The program that ``repr`` printed."""
    slices, training = 2, True
    inputs: list[Input] = []
    members: dict[str, dict[str, tuple[int, ...]]] = {"parameter": {}, "buffer": {}}
    comments, _, body = dedent(text).strip().partition("def forward(")
    for line in comments.splitlines():
        if found := HEAD.match(line):
            slices, training = int(found[1]), found[2] == "training"
        elif found := MEMBER.match(line):
            members[found[2]][found[1]] = _shape(found[3])
        elif found := INPUT.match(line):
            high = int(found[4]) if found[4] and found[4] != "inf" else 0
            inputs.append(Input(found[1], _shape(found[3]), found[2], high))
    lines = [line.strip() for line in body.splitlines()[1:]]
    returned = lines.pop().removeprefix("return (").removesuffix(",)")
    return Program(
        lines=tuple(lines),
        returns=(returned,),
        inputs=tuple(inputs),
        params=members["parameter"],
        buffers=members["buffer"],
        slices=slices,
        training=training,
    )


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n.strip())
