"""What the ranks do to test the transport; called by name through `tests.ranks.pool.Pool`."""

import os
import threading
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import fx, nn

import domino_compile
from domino_compile._compat.groups import funcol
from domino_compile.graph.collectives import WAIT, c10d
from domino_compile.options import Options
from domino_compile.passes.transport import transport_collectives
from domino_compile.transport import choice, ops, wire
from domino_compile.transport.choice import Choice
from domino_compile.transport.wire import wire_of
from domino_compile.verify.check import Memory, check
from domino_compile.verify.read import read_graph
from domino_compile.verify.verifier import NotEqual, Verifier
from tests.passes.graphs import Builder, aten
from tests.paths import FAST_LINK


def _world() -> str:
    group = dist.group.WORLD
    assert group is not None
    return str(group.group_name)


def near(mine: torch.Tensor, other: torch.Tensor, dtype: torch.dtype) -> None:
    """Check that sums are equal but for the rounding of a type."""
    exact = dtype is torch.float64
    torch.testing.assert_close(
        mine, other, rtol=1e-12 if exact else 2e-2, atol=1e-12 if exact else 5e-2
    )


def collectives(rank: int, world: int, rounds: int) -> int:
    """Run all operations in changing order against gloo's; returns the bytes of slots."""
    group, order = _world(), torch.Generator().manual_seed(5)
    for number in range(rounds):
        torch.manual_seed(100 * number + rank)
        x = torch.randn(3 * world, 5, dtype=(torch.float64, torch.bfloat16)[number % 2])
        scattered, gathered = ops.scatter_start(x, 0, group), ops.gather_start(x, 0, group)
        exchanged, reduced = ops.exchange_start(x, 1, group), ops.reduce_start(x, 0, group)
        total = x.double().clone()
        dist.all_reduce(total)

        def scatter(x: Any = x, scattered: Any = scattered, total: Any = total) -> None:
            inbox = ops.inbox_wait(scattered, x, 0, group)
            mine = x.chunk(world)[rank].double() + inbox.double().sum(0)
            ops.inbox_release(inbox, 0, group)
            near(mine, total.chunk(world)[rank], x.dtype)

        def gather(x: Any = x, gathered: Any = gathered) -> None:
            got = ops.gather_wait(gathered, x, 0, group)
            wanted = funcol.all_gather_tensor(x.double(), 0, dist.group.WORLD)
            assert torch.equal(got.double(), wanted)
            ops.gather_release(got, 0, group)

        def exchange(x: Any = x, exchanged: Any = exchanged, total: Any = total) -> None:
            inbox = ops.inbox_wait(exchanged, x, 1, group)
            everything = x.double() + inbox.double().sum(0)
            ops.inbox_release(inbox, 1, group)
            near(everything, total, x.dtype)

        def reduce(x: Any = x, reduced: Any = reduced, total: Any = total) -> None:
            got = ops.reduce_wait(reduced, x, 0, group)
            near(got.double(), total, x.dtype)
            replicas = funcol.all_gather_tensor(got.double(), 0, dist.group.WORLD).chunk(world)
            assert all(torch.equal(replica, replicas[0]) for replica in replicas)

        steps = [scatter, gather, exchange, reduce]
        for index in torch.randperm(4, generator=order).tolist():
            steps[index]()
    return wire_of(group, "cpu").bytes_held


def two_groups(rank: int, world: int) -> bool:
    """Collectives of two groups in flight at once, beside gloo's; a destroyed group's slots go."""
    inner = dist.new_group(list(range(world)))
    assert inner is not None
    group, other = _world(), str(inner.group_name)
    x = torch.full((world, 4), float(rank + 1))
    first, second = ops.gather_start(x, 0, group), ops.gather_start(2 * x, 0, other)
    dist.all_reduce(x.clone())
    later = ops.gather_wait(second, 2 * x, 0, other)
    earlier = ops.gather_wait(first, x, 0, group)
    same = torch.equal(later, 2 * earlier) and float(earlier[-1, 0]) == world
    ops.gather_release(later, 0, other)
    ops.gather_release(earlier, 0, group)
    dist.destroy_process_group(inner)
    del inner
    return same and not any(name == other for name, _ in wire._wires)


def _block(world: int) -> fx.Graph:
    """Every kind of collective, each with a product beside it; one result is returned as it is."""
    b = Builder()
    x, w = b.input("x", 4 * world, 6), b.input("w", 6, 6)
    results = []
    mm = aten.mm.default
    for kind in ("all_reduce", "reduce_scatter", "all_gather", "returned"):
        part = b.call(mm, x, w)
        if kind == "all_reduce":
            launch = b.call(c10d.all_reduce.default, part, "sum", _world())
        elif kind == "reduce_scatter":
            launch = b.call(c10d.reduce_scatter_tensor.default, part, "sum", world, _world())
        else:
            launch = b.call(c10d.all_gather_into_tensor.default, part, world, _world())
        beside = b.call(mm, part, w)
        result = b.call(WAIT, launch)
        if kind == "all_gather":  # its last reader is behind a view
            result = b.call(aten.mm.default, b.call(aten.view.default, result, [-1, 6]), w)
        results += [result if kind == "returned" else b.call(aten.relu.default, result), beside]
    return b.output(*results)


def rewritten(rank: int, world: int) -> tuple[str, list[str]]:
    """Rewrite a graph, and run it before and after; returns the report and the operations."""
    graph = _block(world)
    torch.manual_seed(rank)
    inputs = torch.randn(4 * world, 6), torch.randn(6, 6)
    module = graph.owning_module
    assert module is not None
    module.recompile()
    before, plain = module(*inputs), read_graph(graph)
    done = transport_collectives(graph, Choice("symmetric"), lambda _: True)
    graph.lint()
    proved = check(plain, read_graph(graph), done.witness, Memory())
    assert proved.collectives == (4, 4)
    module.recompile()
    for _ in range(3):
        for mine, other in zip(module(*inputs), before, strict=True):
            torch.testing.assert_close(mine, other)
    targets = [str(n.target) for n in graph.nodes if ops.is_command(n)]
    return done.text(), targets


def trained(rank: int, world: int, lowering: str) -> str:
    """Train with the transport and all checks, and without compiling; returns what it carried."""
    torch.manual_seed(0)
    model = nn.Sequential(*(SequenceParallel() for _ in range(2))).double()
    x = torch.randn(
        4 * world, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(rank)
    )
    torch._dynamo.reset()
    options = {"slices": 2, "link": FAST_LINK, "transport": "symmetric", "lowering": lowering}
    compiled = torch.compile(model, backend="domino", options={**options, "verify": "strict"})
    results = []
    for program in (model, compiled, compiled):
        given = x.clone().requires_grad_()
        program(given).square().sum().backward()
        weights = [p.grad for p in model.parameters()]
        results.append([given.grad, *weights])
        model.zero_grad()
    for other in results[1:]:
        for mine, theirs in zip(other, results[0], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)
    (report,) = domino_compile.reports()
    assert report.status == "sliced" and not report.reason, report.reason
    return "; ".join(schedule.transport for schedule in report.schedules)


def refused_on_one_rank(rank: int, world: int) -> tuple[bool, str, str]:
    """The last rank's graph is refused; returns whether numbers are right, reason and schedules."""
    torch.manual_seed(0)
    model, x = SequenceParallel().double(), torch.randn(4 * world, 6, dtype=torch.float64)
    prove = Verifier.check

    def refuse(self: Verifier, phase: str, name: str, *given: Any) -> None:
        if rank == world - 1 and name == "transport":
            raise NotEqual(name, "x", "made up", "")
        prove(self, phase, name, *given)

    options = {"slices": 2, "link": FAST_LINK, "transport": "symmetric", "lowering": "eager"}
    with (
        mock.patch.object(Verifier, "check", refuse),
        mock.patch.dict(os.environ, {"DOMINO_COMPILE_STRICT": "0"}),
    ):
        found = torch.compile(model, backend="domino", options=options)(x)
    (report,) = domino_compile.reports()
    return torch.allclose(found, model(x), rtol=1e-12), report.reason, str(report.schedules)


class SequenceParallel(nn.Module):
    """Tokens of all ranks, an MLP with this rank's weights, and the sum of all ranks' results."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8, bias=False), nn.Linear(8, 6, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = funcol.all_gather_tensor(x, 0, dist.group.WORLD)
        part = self.down(self.up(whole).relu())
        return x + funcol.reduce_scatter_tensor(part, "sum", 0, dist.group.WORLD)


def lonely(rank: int, world: int) -> str:
    """Rank 0 starts a collective that no other rank takes part in; returns its error."""
    group = _world()
    x = torch.ones(world, 2)
    ops.gather_release(ops.gather_wait(ops.gather_start(x, 3, group), x, 3, group), 3, group)
    (slot,) = (s for key, s in wire_of(group, "cpu").slots.items() if key.number == 3)
    slot.timeout_s = 0.2  # type: ignore[attr-defined]
    message = ""
    if rank == 0:
        try:
            ops.gather_wait(ops.gather_start(x, 3, group), x, 3, group)
        except Exception as error:
            message = str(error)
    dist.barrier()
    return message


def environment(rank: int, world: int) -> str:
    """What decides the transport besides the graph."""
    assert choice.environment(Options()) == ""
    return choice.environment(Options(transport="auto"))


def left_behind(rank: int, world: int) -> list[str]:
    """The files and threads of the transport that still exist."""
    files = [name for name in os.listdir("/dev/shm") if name.startswith("domino-slot")]
    return files + [t.name for t in threading.enumerate() if t.name.startswith("domino-slot")]
