"""The ranks of a benchmark: emulated on one GPU, gloo ranks with an emulated link, or real ranks.

================  ============================================================  ==========
world             description                                                   emulated
================  ============================================================  ==========
one GPU           this process is one rank of ``--tp``, its collectives take    yes
                  the time of a link table
gloo ranks        real ranks on the CPU; each completion is delayed to a link   yes
                  table's time
real ranks        under torchrun: NCCL or RCCL on GPUs, gloo on the CPU         no
================  ============================================================  ==========
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from domino_compile import _compat, emulate
from domino_compile.links import LinkTable, load_link
from domino_compile.tools.bench.shapes import BenchError

TIMEOUT = timedelta(minutes=10)
#: The timeout for torchrun's store when a rank fails.
STORE_TIMEOUT = timedelta(seconds=5)
#: How long to wait for other ranks to fail at the same point.
OTHERS_TIMEOUT = timedelta(seconds=20)
#: How long to wait for benchmarks that use the machine before this one.
TURN_TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class Place:
    """Where to run.

    Attributes:
        device: ``cuda`` or ``cpu``.
        link: The name or file of the emulated link; ``None`` for the real one.
        ctas: The thread blocks that an emulated collective occupies on the GPU; ``None`` uses the
            table's number.
        rank: The rank of this process; ``None`` uses torchrun's.
        rendezvous: The address at which ranks meet that torchrun did not start.
        high_priority: Whether collectives run on high-priority streams (GPU). On a normal-priority
            stream a collective's blocks wait for all blocks of a kernel that starts with it.
    """

    device: str
    link: str | None
    ctas: int | None = None
    rank: int | None = None
    rendezvous: str | None = None
    high_priority: bool = True

    @property
    def stream_priority(self) -> int:
        """Return the priority of the collectives' streams."""
        return -1 if self.high_priority and self.device == "cuda" else 0

    @property
    def one_process(self) -> bool:
        """Return whether this process acts as one rank, and no other ranks exist."""
        return self.device == "cuda" and self.link is not None

    @property
    def can_be_free(self) -> bool:
        """Return whether collectives can take no time; real gloo collectives always take some."""
        return self.device == "cuda" or self.link is not None


@dataclass
class World:
    """The process groups of a benchmark.

    Attributes:
        place: The place where it runs.
        ranks: The size of the tensor-parallel group.
        rank: The rank of this process.
        group: The tensor-parallel group.
        free_group: A group whose collectives take no time; ``None`` if that is not possible.
        table: The emulated link, scaled to ``ranks``; ``None`` if the link is real.
        host_group: A group on which ranks wait without the GPU; ``None`` for a single process.
    """

    place: Place
    ranks: int
    rank: int
    group: dist.ProcessGroup
    free_group: dist.ProcessGroup | None
    table: LinkTable | None
    host_group: dist.ProcessGroup | None = None

    def choose(self, free: bool) -> None:
        """Set the time that the emulated collectives of the next step take."""
        if self.table is not None:
            link = None if free else self.place.link
            emulate.use_link(
                link,
                device=self.place.device,
                ctas=self.place.ctas,
                stream_priority=self.place.stream_priority,
            )

    def group_for(self, free: bool) -> dist.ProcessGroup:
        """Return the group that a variant's model uses.

        Raises:
            BenchError: Free collectives are not possible here.
        """
        if not free:
            return self.group
        if self.free_group is None:
            raise BenchError("free collectives need an emulated link or a GPU: add --link")
        return self.free_group

    def agreed(self, values: list[float]) -> list[float]:
        """Return each value's maximum over all ranks (a step is as slow as its slowest rank)."""
        if self.place.one_process:
            return values
        largest = torch.tensor(values, dtype=torch.float64, device=self.place.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self.group)
        return [float(value) for value in largest]

    def failed_alike(self, what: str) -> bool:
        """Return whether all ranks fail at the same point, so that no rank waits for another."""
        shared = None if self.place.one_process else _compat.shared_store(self.group.group_name)
        if shared is None:
            return True
        store, ranks, this_rank = shared
        keys = [f"domino_bench/failed/{what}/{position}" for position in range(len(ranks))]
        store.set(keys[this_rank], "")
        try:
            store.wait(keys, OTHERS_TIMEOUT)
        except (RuntimeError, dist.DistError):
            return False
        return True

    def line_up(self) -> None:
        """Wait until every rank arrives."""
        if self.place.device == "cuda":
            torch.cuda.synchronize()
        if not self.place.one_process:
            dist.barrier(group=self.group)

    def first_rank_only(self, action: Callable[[], None]) -> None:
        """Let the first rank do something while the others wait with idle GPUs."""
        if self.place.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()  # the benchmark we wait for may need it
        if self.rank == 0:
            action()
        if self.host_group is not None:
            dist.barrier(group=self.host_group)


@contextmanager
def open_world(place: Place, ranks: int) -> Iterator[World]:
    """Make the process groups, and destroy them at the end unless one of several ranks fails.

    A process that fails must end instead, because destroying a group can wait for other ranks.

    Raises:
        BenchError: The place lacks a GPU or the ranks, or has a process group already.
        LinkError: The link is unknown or malformed.
    """
    if place.device == "cuda" and not torch.cuda.is_available():
        raise BenchError("there is no GPU: --device cpu runs a small model on gloo ranks instead")
    if dist.is_initialized():
        raise BenchError(
            "there already is a process group: run the benchmark in a separate process"
        )
    try:
        yield _open(place, ranks)
    except BaseException:
        if place.one_process:
            _close()
        raise
    _close()


def _close() -> None:
    if dist.is_initialized():
        _release_graphs()
        dist.destroy_process_group()


def first_to_fail() -> bool:
    """Return whether this rank is the first of torchrun's to fail; others fail because of it.

    This asks torchrun's store, because the groups may have failed. Without an answer it is true.
    """
    with contextlib.suppress(KeyError, ValueError, RuntimeError):
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(host, port, is_master=False, timeout=STORE_TIMEOUT)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return int(store.add(f"domino_bench/failed/{attempt}", 1)) == 1
    return True


def _release_graphs() -> None:
    """Free recorded CUDA graphs, because NCCL waits forever for those that hold its collectives.

    https://github.com/pytorch/pytorch/issues/115388
    """
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _open(place: Place, ranks: int) -> World:
    if place.one_process:
        emulate.init(
            place.link,
            device="cuda",
            world_size=ranks,
            ctas=place.ctas,
            stream_priority=place.stream_priority,
        )
        return _world(place, ranks, 0, _default_group(), _default_group())
    meeting: dict[str, Any] = {"timeout": TIMEOUT}
    if place.rendezvous is not None:
        meeting |= {"rank": place.rank, "world_size": ranks, "init_method": place.rendezvous}
    if place.link is not None:
        emulate.init(place.link, **meeting)
        return _world(place, ranks, dist.get_rank(), _default_group(), _default_group())
    if place.device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        settings = dist.ProcessGroupNCCL.Options(is_high_priority_stream=place.high_priority)
        meeting["pg_options"] = settings
    dist.init_process_group("nccl" if place.device == "cuda" else "gloo", **meeting)
    free = None
    if place.device == "cuda":
        emulate.use_link(None, device="cuda")
        free = dist.new_group(backend=emulate.BACKEND)
    return _world(place, ranks, dist.get_rank(), _default_group(), free)


def _default_group() -> dist.ProcessGroup:
    group = dist.group.WORLD
    assert group is not None
    return group


def _world(
    place: Place,
    ranks: int,
    rank: int,
    group: dist.ProcessGroup,
    free: dist.ProcessGroup | None,
) -> World:
    if group.size() != ranks:
        raise BenchError(f"--tp {ranks} needs {ranks} ranks, but {group.size()} were started")
    table = None if place.link is None else load_link(place.link).scaled_to(ranks)
    host = None if place.one_process else dist.new_group(backend="gloo", timeout=TURN_TIMEOUT)
    return World(place, ranks, rank, group, free, table, host)
