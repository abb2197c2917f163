"""Random sequence-parallel programs on real ranks, cut and uncut, in float64.

The ranks of a group divide the tokens of one or a few sequences. Lengths may be odd: then either
the sequence is padded to a multiple of the ranks, or ranks hold parts of different lengths, which
are padded for each collective (as DTensor does it). Dropout may be drawn for a rank's own tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

import domino_compile
from domino_compile.backend import domino
from tests.sequence_block import block

H, VOCAB = 4, 16
c10d: Any = torch.ops._c10d_functional
#: The uncut program, captured as well: eager mode draws other numbers than captured programs.
UNCUT = {"slices": 1, "disable_passes": ("normalise", "regroup", "slice", "schedule")}
SHAPES = {"norm": (H,), "qkv": (H, 24), "out": (8, H), "up": (H, 6), "down": (6, H)}


@dataclass(frozen=True)
class Case:
    """A program.

    Attributes:
        number: Its seed.
        batch: The number of sequences.
        tokens: The length of each.
        dim: The dimension of the tokens.
        begin: Ranks take over a ``shard``, a ``whole`` of which each takes its part, or ids.
        end: A ``loss`` of all tokens, or a ``shard`` that is returned.
        odd: Odd lengths are ``padded``, or ranks hold ``uneven`` parts.
        layers: The number of blocks.
        dropout: Whether there is dropout on a rank's tokens.
        slices: How many are asked for.
        dynamic: Whether the number of sequences is dynamic.
    """

    number: int
    batch: int
    tokens: int
    dim: int
    begin: str
    end: str
    odd: str
    layers: int
    dropout: bool
    slices: int
    dynamic: bool

    def lengths(self, ranks: int) -> list[int]:
        """The number of tokens of each rank."""
        most = -(-self.tokens // ranks)
        if self.odd == "padded":
            return [most] * ranks
        return [max(0, min(most, self.tokens - rank * most)) for rank in range(ranks)]


def drawn(number: int, ranks: int) -> Case:
    """The case of a seed."""
    draw = random.Random(number)
    batch = draw.choice((1, 1, 1, 2, 4))
    tokens = ranks * draw.randint(3, 6)
    if draw.random() < 0.4:
        tokens -= draw.randint(1, ranks - 1)
    return Case(
        number=number,
        batch=batch,
        tokens=tokens,
        dim=draw.choice((0, 1)),
        begin=draw.choice(("shard", "whole", "ids")),
        end=draw.choice(("loss", "shard")),
        odd=draw.choice(("padded", "uneven")),
        layers=draw.choice((1, 1, 2)),
        dropout=draw.random() < 0.3,
        slices=draw.choice((2, 2, 3)),
        dynamic=batch > 1 and draw.random() < 0.5,
    )


@dataclass(frozen=True)
class Ranks:
    """How a group divides tokens."""

    rank: int
    lengths: tuple[int, ...]
    dim: int
    name: str = field(default="0")

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        most, ranks = max(self.lengths), len(self.lengths)
        sent = padded(x, self.dim, most).contiguous()
        whole = c10d.wait_tensor(c10d.all_gather_into_tensor(sent, ranks, self.name))
        if self.dim:
            whole = whole.unflatten(0, (ranks, -1)).movedim(0, self.dim).flatten(self.dim, 2)
        if min(self.lengths) == most:
            return whole  # type: ignore[no-any-return]
        parts = zip(whole.chunk(ranks, self.dim), self.lengths, strict=True)
        return torch.cat([part.narrow(self.dim, 0, n) for part, n in parts], self.dim)

    def scatter(self, x: torch.Tensor) -> torch.Tensor:
        most, ranks = max(self.lengths), len(self.lengths)
        parts = [padded(part, self.dim, most) for part in x.split(list(self.lengths), self.dim)]
        sent = torch.cat(parts) if self.dim or min(self.lengths) != most else x
        reduced = c10d.reduce_scatter_tensor(sent.contiguous(), "sum", ranks, self.name)
        own = c10d.wait_tensor(reduced)
        length = self.lengths[self.rank]
        return own if length == most else own.narrow(self.dim, 0, length)  # type: ignore[no-any-return]


def padded(x: torch.Tensor, dim: int, length: int) -> torch.Tensor:
    missing = length - x.shape[dim]
    return x if not missing else F.pad(x, [0, 0] * (x.ndim - 1 - dim) + [0, missing])


class Gather(torch.autograd.Function):
    """All-gather of tokens forward, reduce-scatter backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, on: Ranks) -> torch.Tensor:
        ctx.on = on
        return on.gather(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return ctx.on.scatter(grads[0]), None


class Scatter(torch.autograd.Function):
    """Reduce-scatter of tokens forward, all-gather backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, on: Ranks) -> torch.Tensor:
        ctx.on = on
        return on.scatter(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return ctx.on.gather(grads[0]), None


def program(case: Case, on: Ranks) -> Any:
    """The program as a function of what it begins with, a target and the weights."""
    collectives = lambda t: Gather.apply(t, on), lambda t: Scatter.apply(t, on)

    def step(given: Any, target: Any, table: Any, *weights: Any) -> Any:
        if case.begin == "shard":
            x = given
        else:
            whole = F.embedding(given, table) if case.begin == "ids" else given
            whole = padded(whole, on.dim, sum(on.lengths))
            if case.begin == "ids":
                x = Scatter.apply(whole, on)
            else:
                x = whole.split(list(on.lengths), on.dim)[on.rank]
        for _ in range(case.layers):
            if case.dropout:
                x = F.dropout(x, 0.3)
            x = block(x, *weights, *collectives, on.dim)
        if case.end == "shard":
            return x
        whole = Gather.apply(x, on)
        if case.tokens < sum(on.lengths):
            whole = whole.narrow(on.dim, 0, case.tokens)
        return (whole * target).sum()

    return step


def arguments(case: Case, on: Ranks, batch: int) -> list[torch.Tensor]:
    """What a rank calls the program with: what ranks have in common is the same on all."""
    common = torch.Generator().manual_seed(case.number)
    own = torch.Generator().manual_seed(1000 * case.number + on.rank)

    def shape(tokens: int, *rest: int) -> tuple[int, ...]:
        return (batch, tokens, *rest) if on.dim else (tokens, batch, *rest)

    def normal(sizes: tuple[int, ...], of: torch.Generator) -> torch.Tensor:
        return torch.randn(sizes, generator=of, dtype=torch.float64)

    given = {
        "shard": lambda: normal(shape(on.lengths[on.rank], H), own).requires_grad_(),
        "whole": lambda: normal(shape(case.tokens, H), common).requires_grad_(),
        "ids": lambda: torch.randint(0, VOCAB, shape(case.tokens), generator=common),
    }[case.begin]()
    target, table = normal(shape(case.tokens, H), common), normal((VOCAB, H), own)
    weights = [
        normal(sizes, common if name == "norm" else own).requires_grad_()
        for name, sizes in SHAPES.items()
    ]
    return [given, target, table.requires_grad_(), *weights]


def results(step: Any, case: Case, on: Ranks, batch: int) -> dict[str, torch.Tensor]:
    """What a step leaves on a rank; gradients of which ranks have summands are added up."""
    given = arguments(case, on, batch)
    if case.dynamic:
        torch._dynamo.mark_dynamic(given[0], 1 - on.dim)
        torch._dynamo.mark_dynamic(given[1], 1 - on.dim)
    torch.manual_seed(case.number + on.rank)
    out = step(*given)
    (out * torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype).view(out.shape)).sum().backward()
    left = {"out": out.detach()}
    for name, x in zip(("given", "target", "table", *SHAPES), given, strict=True):
        if x.grad is not None:
            if name == "norm":
                dist.all_reduce(x.grad)
            left[name] = x.grad
    return left


def run(rank: int, world: int, number: int) -> dict[str, Any]:
    """One rank's part of a run: what is wrong, and how the program was compiled."""
    case = drawn(number, world)
    assert dist.group.WORLD is not None
    on = Ranks(rank, tuple(case.lengths(world)), case.dim, dist.group.WORLD.group_name)
    wrong, reports = [], []
    kinds = {}
    for kind, options in (("uncut", UNCUT), ("cut", {"slices": case.slices, "guard": "off"})):
        torch._dynamo.reset()
        domino_compile.reset_reports()
        chosen = {"lowering": "eager", "verify": "strict", **options}
        step = torch.compile(program(case, on), backend=domino, options=chosen)
        sizes = (case.batch, case.batch + 1) if case.dynamic else (case.batch,)
        kinds[kind] = [results(step, case, on, batch) for batch in sizes]
        reports = domino_compile.reports()
    for uncut, cut in zip(kinds["uncut"], kinds["cut"], strict=True):
        for name in uncut.keys() | cut.keys():
            error = float((uncut[name] - cut[name]).norm() / uncut[name].norm().clamp_min(1e-9))
            if not error < 1e-10:
                wrong.append(f"{name} is off by {error:.1e}")
    cut = [r for r in reports if r.status == "sliced"]
    how = "tokens" if any(r.tokens for r in cut) else "rows" if cut else reports[-1].status
    return {"wrong": wrong, "how": how, "why": reports[-1].reason}
