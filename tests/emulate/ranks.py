"""What each of two real gloo ranks checks, in the processes of a pool that test_cpu.py starts."""

import threading
import time
import traceback
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
import torch.distributed.nn.functional as dist_nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from domino_compile import emulate
from domino_compile.links import load_link

SIZE = 2
CHECKS: dict[str, Callable[[int], None]] = {}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8]
ops = torch.ops._c10d_functional


def check(function: Callable[[int], None]) -> Callable[[int], None]:
    CHECKS[function.__name__] = function
    return function


def plain() -> dist.ProcessGroup:
    return dist.new_group(backend="gloo")


def data(rank: int, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rank)
    return torch.randint(0, 9, shape, generator=generator).to(dtype)


def same(run: Callable[[dist.ProcessGroup], object]) -> None:
    """`run` gives equal results on the emulated and on a plain gloo group."""
    emulated, real = run(dist.group.WORLD), run(plain())
    torch.testing.assert_close(emulated, real, rtol=0, atol=0)


@check
def all_reduce(rank: int) -> None:
    for dtype in DTYPES:
        for op in (dist.ReduceOp.SUM, dist.ReduceOp.MAX, dist.ReduceOp.PRODUCT):

            def run(group: dist.ProcessGroup, dtype=dtype, op=op) -> torch.Tensor:
                tensor = data(rank, dtype, 3, 5)
                dist.all_reduce(tensor, op, group)
                return tensor

            same(run)


@check
def all_reduce_average_and_complex(rank: int) -> None:
    def run(group: dist.ProcessGroup) -> list[torch.Tensor]:
        real, pair = data(rank, torch.float32, 7), data(rank, torch.complex64, 4)
        dist.all_reduce(real, dist.ReduceOp.AVG, group)
        dist.all_reduce(pair, group=group)
        return [real, pair]

    same(run)


@check
def all_gather(rank: int) -> None:
    for dtype in [*DTYPES, torch.bool]:

        def run(group: dist.ProcessGroup, dtype=dtype) -> list[torch.Tensor]:
            shard = data(rank, dtype, 2, 3)
            parts = [torch.empty_like(shard) for _ in range(SIZE)]
            dist.all_gather(parts, shard, group)
            whole = torch.empty(4, 3, dtype=dtype)
            dist.all_gather_into_tensor(whole, shard, group)
            return [*parts, whole]

        same(run)


@check
def all_gather_moves_types_that_gloo_lacks(rank: int) -> None:
    shard = data(rank, torch.float8_e4m3fn, 2, 3)
    whole = torch.empty(4, 3, dtype=shard.dtype)
    dist.all_gather_into_tensor(whole, shard)
    expected = torch.cat([data(r, torch.float8_e4m3fn, 2, 3).float() for r in range(SIZE)])
    torch.testing.assert_close(whole.float(), expected)


@check
def reduce_scatter(rank: int) -> None:
    for dtype in DTYPES:
        whole = data(rank, dtype, 4, 3)
        output = torch.empty(2, 3, dtype=dtype)
        dist.reduce_scatter_tensor(output, whole)
        expected = sum(data(r, dtype, 4, 3) for r in range(SIZE))
        torch.testing.assert_close(output, expected[2 * rank : 2 * rank + 2])
        listed = torch.empty(2, 3, dtype=dtype)
        dist.reduce_scatter(listed, list(whole.chunk(SIZE)))
        torch.testing.assert_close(listed, output)


@check
def broadcast_reduce_gather_scatter_barrier(rank: int) -> None:
    def run(group: dist.ProcessGroup) -> list[torch.Tensor]:
        sent, kept = data(rank, torch.float32, 5), data(rank, torch.float32, 5)
        dist.broadcast(sent, 1, group)
        dist.reduce(kept, 0, group=group)
        parts = [torch.empty(5) for _ in range(SIZE)] if rank == 0 else None
        dist.gather(data(rank, torch.float32, 5), parts, 0, group)
        got = torch.empty(5)
        dist.scatter(got, [sent, sent + 1] if rank == 1 else None, 1, group)
        dist.barrier(group)
        return [sent, got, *(parts or []), *([kept] if rank == 0 else [])]

    same(run)


@check
def all_to_all(rank: int) -> None:
    def run(group: dist.ProcessGroup) -> list[torch.Tensor]:
        equal = torch.empty(4, 3)
        dist.all_to_all_single(equal, data(rank, torch.float32, 4, 3), group=group)
        uneven = torch.empty(2 + 2 * rank)
        splits = [1 + rank] * 2
        dist.all_to_all_single(uneven, torch.arange(3.0), splits, [1, 2], group=group)
        return [equal, uneven]

    same(run)


@check
def non_contiguous_tensors(rank: int) -> None:
    base = torch.arange(24.0).view(4, 6) * (rank + 1)
    view = base.t()[::2]
    dist.all_reduce(view)
    expected = torch.arange(24.0).view(4, 6)
    expected.t()[::2] *= 3
    expected.t()[1::2] *= rank + 1
    torch.testing.assert_close(base, expected)
    whole = torch.empty(4, 6).t()
    dist.broadcast(whole.copy_(base.t() if rank == 0 else whole), 0)
    torch.testing.assert_close(whole[::2], expected.t()[::2])


@check
def functional_collectives(rank: int) -> None:
    def run(group: dist.ProcessGroup) -> list[torch.Tensor]:
        name, x = group.group_name, data(rank, torch.float32, 4, 3)
        started = [
            ops.all_reduce(x, "sum", name),
            ops.all_reduce(x, "avg", name),
            ops.all_gather_into_tensor(x, SIZE, name),
            ops.reduce_scatter_tensor(x, "sum", SIZE, name),
            ops.broadcast(x, 1, name),
            ops.all_to_all_single(x, [2, 2], [2, 2], name),
            *ops.all_reduce_coalesced([x, x + 1], "sum", name),
            *ops.all_gather_into_tensor_coalesced([x, x[:2]], SIZE, name),
            *ops.reduce_scatter_tensor_coalesced([x, x[:2]], "sum", SIZE, name),
        ]
        return [ops.wait_tensor(tensor) for tensor in started]

    same(run)


@check
def objects_travel(rank: int) -> None:
    seen: list[object] = [None] * SIZE
    dist.all_gather_object(seen, {"rank": rank})
    assert seen == [{"rank": 0}, {"rank": 1}]


@check
def no_wait_returns_before_the_wire_is_done(rank: int) -> None:
    emulate.use_link("demo-2")
    dist.barrier()
    emulate.reset_trace()
    begin = time.monotonic()
    first = dist.all_reduce(torch.ones(1 << 16), async_op=True)
    second = dist.all_reduce(torch.ones(1 << 16), async_op=True)
    second.wait()
    seconds = time.monotonic() - begin
    first.wait()
    one = load_link("demo-2").time_us("all_reduce", 4 << 16) * 1e-6
    assert seconds >= 2 * one, (seconds, one)
    early, late = emulate.trace()
    assert early.end_s >= early.start_s + one * 0.999
    assert late.start_s == max(late.launch_s, early.end_s)
    for record in (early, late):
        assert record.done_s is not None and record.done_s >= record.end_s


@check
def a_late_wait_is_not_exposed(rank: int) -> None:
    emulate.use_link("demo-2")
    dist.barrier()
    emulate.reset_trace()
    work = dist.all_reduce(torch.ones(4), async_op=True)
    time.sleep(0.01)
    work.wait()
    work.wait()
    (record,) = emulate.trace()
    assert record.exposed_ms == 0 and record.done_s is not None
    assert emulate.summary().hidden_fraction == 1


@check
def is_completed_turns_true_and_shows_results(rank: int) -> None:
    emulate.use_link("demo-2")
    output = torch.zeros(1)
    work = dist.reduce_scatter_tensor(output, torch.ones(2), async_op=True)
    while not work.is_completed():
        time.sleep(0.001)
    assert output.item() == SIZE


@check
def futures_complete(rank: int) -> None:
    work = dist.all_reduce(torch.ones(2), async_op=True)
    (result,) = work.get_future().wait()
    assert result.tolist() == [2, 2]


@check
def trace_is_complete(rank: int) -> None:
    emulate.use_link("demo-2")
    emulate.reset_trace()
    name = dist.group.WORLD.group_name
    x = torch.ones(4, 8)
    ops.wait_tensor(ops.all_reduce(x, "sum", name))
    ops.wait_tensor(ops.all_gather_into_tensor(x, SIZE, name))
    ops.wait_tensor(ops.reduce_scatter_tensor(x, "sum", SIZE, name))
    dist.broadcast(x, 0)
    dist.barrier()
    records = emulate.trace()
    assert [(r.name, r.nbytes) for r in records] == [
        ("all_reduce", 128),
        ("all_gather", 256),
        ("reduce_scatter", 128),
        ("broadcast", 128),
        ("barrier", 0),
    ]
    link = load_link("demo-2")
    for r in records:
        assert (r.group, r.link, r.ranks) == (name, "demo-2", SIZE)
        assert abs(r.wire_ms * 1e3 - link.time_us(r.name, r.nbytes)) < 1e-6
        assert r.launch_s <= r.start_s <= r.end_s <= (r.done_s or 0)
    total = emulate.summary()
    assert total.collectives == 4 and total.emulated
    assert abs(total.wire_ms - sum(r.wire_ms for r in records[:4])) < 1e-9
    assert "emulated" in str(total)
    emulate.reset_trace()
    assert emulate.trace() == []


@check
def sub_groups_have_links_of_their_own(rank: int) -> None:
    emulate.use_link("demo-2", groups={"tp": "h200-nvlink-8", "mine": None})
    mesh = init_device_mesh("cpu", (1, SIZE), mesh_dim_names=("dp", "tp"))
    named = dist.new_group(group_desc="mine")
    described = dist.new_group(group_desc="mesh_tp")
    alone = mesh.get_group("dp")
    emulate.reset_trace()
    for group in (dist.group.WORLD, described, named, alone):
        assert isinstance(group, emulate.EmulatedGroup)
        tensor = torch.ones(2)
        dist.all_reduce(tensor, group=group)
        assert tensor.tolist() == [group.size()] * 2
    seen = [(record.link, record.wire_ms > 0) for record in emulate.trace()]
    assert seen == [("demo-2", True), ("h200-nvlink-8@2", True), ("free", False), ("free", False)]
    emulate.use_link("demo-2")
    emulate.reset_trace()
    dist.all_reduce(torch.ones(2), group=named)
    assert emulate.trace()[0].link == "demo-2"


@check
def compiled_functions(rank: int) -> None:
    group = dist.group.WORLD

    def run(x: torch.Tensor) -> torch.Tensor:
        summed = funcol.all_reduce(torch.sin(x), "sum", group)
        gathered = ops.all_gather_into_tensor(x * 2, SIZE, group.group_name)
        part = ops.reduce_scatter_tensor(x + 1, "sum", SIZE, group.group_name)
        return summed.sum() + ops.wait_tensor(gathered).sum() + ops.wait_tensor(part).cos().sum()

    x = data(rank, torch.float64, 4, 6)
    expected = run(x)
    emulate.reset_trace()
    torch.testing.assert_close(torch.compile(run, fullgraph=True)(x), expected)
    names = sorted(record.name for record in emulate.trace())
    assert names == ["all_gather", "all_reduce", "reduce_scatter"]


@check
def compiled_training_step(rank: int) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(6, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    x = data(rank, torch.float64, 4, 6)

    def loss(x: torch.Tensor) -> torch.Tensor:
        for weight in weights:
            x = funcol.all_reduce(torch.tanh(x @ weight), "sum", dist.group.WORLD)
        return x.square().mean()

    eager = torch.autograd.grad(loss(x), weights)
    compiled = torch.autograd.grad(torch.compile(loss)(x), weights)
    torch.testing.assert_close(compiled, eager)


@check
def autograd_of_dist_nn(rank: int) -> None:
    def run(group: dist.ProcessGroup) -> list[torch.Tensor]:
        x = data(rank, torch.float64, 4).requires_grad_()
        y = dist_nn.all_reduce(x * x, group=group)
        z = torch.cat(dist_nn.all_gather(x, group=group))
        (y.sum() + z.square().sum()).backward()
        assert x.grad is not None
        return [y.detach(), x.grad]

    same(run)


@check
def tensor_parallel_with_dtensor(rank: int) -> None:
    mesh = init_device_mesh("cpu", (SIZE,), mesh_dim_names=("tp",))
    a, b = data(0, torch.float64, 4, 6), data(1, torch.float64, 6, 2)
    left = DTensor.from_local(a.chunk(SIZE, 1)[rank].contiguous(), mesh, [Shard(1)])
    right = DTensor.from_local(b.chunk(SIZE, 0)[rank].contiguous(), mesh, [Shard(0)])
    emulate.reset_trace()
    product = (left @ right).redistribute(mesh, [Replicate()]).to_local()
    torch.testing.assert_close(product, a @ b)
    assert [record.name for record in emulate.trace()] == ["all_reduce"]


@check
def waits_from_other_threads(rank: int) -> None:
    tensors = [torch.ones(8) for _ in range(4)]
    works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    threads = [threading.Thread(target=work.wait) for work in works for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(tensor.eq(2).all() for tensor in tensors)


def run_checks(rank: int, world: int, rendezvous: str) -> dict[str, str]:
    """What each check said on this rank, up to the first that failed."""
    dist.destroy_process_group()  # of the pool, which is not used for anything else
    emulate.init("demo-2", rank=rank, world_size=world, init_method=f"file://{rendezvous}")
    results = {}
    for name, function in CHECKS.items():
        try:
            function(rank)
            results[name] = "ok"
        except Exception:
            results[name] = traceback.format_exc()
            break  # the ranks are out of step now
    return results
