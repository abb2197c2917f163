"""What needs no second rank: settings, records, and the numbers of a rank that is alone."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from domino_compile import emulate
from domino_compile._compat import groups as private
from domino_compile.emulate import cuda, settings
from domino_compile.emulate.cuda import CudaTransport, WireKernel
from domino_compile.emulate.group import Call
from domino_compile.emulate.symmetric import Move, moves
from domino_compile.emulate.trace import Record, Wire
from domino_compile.errors import DominoError
from domino_compile.links import LinkError

SIZE, RANK = 4, 1


@pytest.fixture(autouse=True)
def _settings_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_current", None)


def run(call: Call) -> list[torch.Tensor]:
    for move in moves(call, RANK, SIZE):
        move.apply()
    return call.outputs


@pytest.mark.parametrize("kind", ["all_reduce", "broadcast", "reduce"])
def test_alone_in_place_collectives_leave_the_payload(kind: str) -> None:
    tensors = [torch.arange(6.0).view(2, 3), torch.ones(2)]
    (a, b) = run(Call(kind, tensors, tensors))
    assert a.tolist() == [[0, 1, 2], [3, 4, 5]] and b.tolist() == [1, 1]
    assert all(move.in_place for move in moves(Call(kind, tensors, tensors), RANK, SIZE))


def test_alone_gathers_repeat_the_own_shard() -> None:
    shard = torch.arange(6.0).view(2, 3)
    (whole,) = run(Call("all_gather", [torch.empty(8, 3)], [shard]))
    assert torch.equal(whole, shard.repeat(SIZE, 1))
    parts = run(Call("gather", [torch.empty(2, 3) for _ in range(SIZE)], [shard]))
    assert all(torch.equal(part, shard) for part in parts)


def test_alone_scatters_take_the_own_chunk() -> None:
    whole = torch.arange(24.0).view(8, 3)
    (part,) = run(Call("reduce_scatter", [torch.empty(2, 3)], [whole]))
    assert torch.equal(part, whole[2:4])
    (part,) = run(Call("scatter", [torch.empty(2, 3)], list(whole.chunk(SIZE))))
    assert torch.equal(part, whole[2:4])
    (part,) = run(Call("scatter", [torch.zeros(2, 3)], []))
    assert torch.equal(part, torch.zeros(2, 3))


def test_alone_all_to_all_receives_as_much_as_it_sends() -> None:
    given = torch.arange(8.0)
    assert torch.equal(run(Call("all_to_all", [torch.empty(8)], [given]))[0], given)
    uneven = ([2, 0, 3, 3], [1, 2, 3, 2])
    assert torch.equal(run(Call("all_to_all", [torch.empty(8)], [given], splits=uneven))[0], given)
    with pytest.raises(emulate.EmulateError, match="more or less than it sends needs real ranks"):
        run(Call("all_to_all", [torch.empty(9)], [given], splits=([3, 0, 3, 3], [1, 2, 3, 2])))


def test_link_is_needed_and_checked() -> None:
    with pytest.raises(emulate.EmulateError, match="no emulated link chosen") as caught:
        settings.current()
    assert isinstance(caught.value, DominoError)
    with pytest.raises(LinkError, match="unknown link 'demo-3'; did you mean 'demo-2'"):
        emulate.use_link("demo-3")
    with pytest.raises(LinkError, match="unknown link"):
        emulate.use_link("demo-2", groups={"tp": "nothing-like-it"})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"device": "tpu"}, "device must be 'cpu' or 'cuda', not 'tpu'"),
        ({"ctas": -1}, "ctas must be at least 0, not -1"),
        ({"local_share": 1.5}, "local_share must lie between 0 and 1, not 1.5"),
    ],
)
def test_values_out_of_range(option: dict[str, object], message: str) -> None:
    with pytest.raises(emulate.EmulateError, match=message):
        emulate.use_link("demo-2", **option)  # type: ignore[arg-type]


@pytest.mark.parametrize("ctas", [0, 2])
def test_without_blocks_no_kernel_moves_the_numbers(
    ctas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if copy engines did: one sleeping warp keeps the time, on no multiprocessor of its own."""
    monkeypatch.setattr(cuda, "_units", lambda move: (16, 16, 16))  # as for tensors on a GPU
    launched: list[dict[str, Any]] = []
    kernel = object.__new__(WireKernel)
    kernel._nothing, kernel._clustered, kernel._whole_sm = torch.empty(16), None, 200_000
    kernel._kernel = lambda **what: launched.append(what)
    sent, received = torch.arange(64.0), torch.zeros(64)
    kernel.run(Move(sent, received), 5.0, ctas, exclusive=True, stream=None)
    (launch,) = launched
    *_, wire_ns, must = launch["args"]
    assert wire_ns == 5000 and launch["grid"] == (max(1, ctas), 1, 1)
    assert torch.equal(received, sent) == (ctas == 0) and must == (ctas > 0)
    assert (launch["block"][0] == 32 and launch["shared_mem"] < 1024) == (ctas == 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_says_what_to_do_instead() -> None:
    with pytest.raises(emulate.EmulateError, match="needs a CUDA GPU; device='cpu'"):
        emulate.init("h200-nvlink-8", device="cuda")


def test_wire_is_serial() -> None:
    wire = Wire()
    spans = [wire.occupy(1e6) for _ in range(3)]
    for (_, start, end), (_, after, _) in pairwise(spans):
        assert after == end == pytest.approx(start + 1)


def record(name: str, wire: float, exposed: float | None, late: float | None) -> Record:
    times = {"launch_s": 0.0, "start_s": 0.0, "end_s": wire / 1e3}
    return Record(name, 8, "0", "demo-2", 2, wire, **times, exposed_ms=exposed, late_ms=late)


def test_summary_counts_payload_collectives_only() -> None:
    total = emulate.summary(
        [record("all_reduce", 8, 2, 1), record("all_gather", 2, 0, 0), record("barrier", 9, 9, 9)]
    )
    assert (total.collectives, total.wire_ms, total.exposed_ms, total.late_ms) == (2, 10, 2, 1)
    assert total.hidden_fraction == pytest.approx(0.8)
    assert str(total).startswith("emulated link: 2 collectives, wire 10.00 ms, exposed 2.00 ms")


def test_summary_without_wire_or_without_knowledge() -> None:
    assert emulate.summary([]).hidden_fraction == 1
    assert emulate.summary([record("all_reduce", 1, 3, 0)]).hidden_fraction == 0
    unknown = emulate.summary([record("all_reduce", 1, None, None)])
    assert unknown.exposed_ms is None and "unknown" in str(unknown)


class WithoutGpu(CudaTransport):
    """The CUDA transport on CPU tensors: numbers as on a GPU, no time."""

    def __init__(self, rank: int, size: int) -> None:
        self._rank, self._size = rank, size
        self.fallback = private.silent_backend(rank, size)

    def _drain(self) -> None:
        pass


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as rank 0 of 8."""
    monkeypatch.setattr("domino_compile.emulate.cuda.CudaTransport", WithoutGpu)
    emulate.init("h200-nvlink-8", device="cuda")
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_alone_with_meshes_objects_and_dtensor() -> None:
    assert (dist.get_rank(), dist.get_world_size()) == (0, 8)
    mesh = init_device_mesh("cpu", (2, 4), mesh_dim_names=("dp", "tp"))
    assert [mesh[name].size() for name in ("dp", "tp")] == [2, 4]
    seen: list[object] = [None] * 8
    dist.all_gather_object(seen, {"plan": 1})
    assert seen == [{"plan": 1}] * 8
    shared: list[object] = ["mine"]
    dist.broadcast_object_list(shared, src=0)
    assert shared == ["mine"]
    dist.barrier()
    whole = distribute_tensor(torch.arange(8.0).view(8, 1), mesh["tp"], [Shard(0)])
    assert whole.to_local().tolist() == [[0], [1]]
    partial = DTensor.from_local(torch.ones(3), mesh["tp"], [Partial()])
    assert partial.redistribute(mesh["tp"], [Replicate()]).to_local().tolist() == [1, 1, 1]


@pytest.mark.usefixtures("alone")
def test_alone_compiled() -> None:
    name = dist.group.WORLD.group_name
    ops = torch.ops._c10d_functional

    def function(x: torch.Tensor) -> torch.Tensor:
        y = ops.wait_tensor(ops.all_reduce(x * 2, "sum", name))
        y = ops.wait_tensor(ops.reduce_scatter_tensor(y + 1, "sum", 8, name))
        return ops.wait_tensor(ops.all_gather_into_tensor(y.cos(), 8, name))

    x = torch.randn(16, 3)
    expected = (x * 2 + 1).cos()[:2].repeat(8, 1)
    torch.testing.assert_close(torch.compile(function, fullgraph=True)(x), expected)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu() -> None:
    from benchmarks import emulate_selfcheck

    emulate.init("h200-nvlink-8", device="cuda")
    report = emulate_selfcheck.Report(tolerance=0.05)
    emulate_selfcheck.check_numbers(report, settings.current().link)  # type: ignore[arg-type]
    dist.destroy_process_group()
    assert report.failed == 0
