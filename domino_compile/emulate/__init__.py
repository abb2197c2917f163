"""Process groups whose collectives take the time of a link table. Results are *emulated*.

On the CPU, real gloo ranks exchange real numbers and each completion is delayed::

    from domino_compile import emulate

    emulate.init("demo-2")                        # under torchrun; or rank=, world_size=
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tp",))
    ...                                           # eager or compiled, as with any group
    print(emulate.summary())                      # wire, exposed, hidden
    emulate.reset_trace()

On one GPU, one process acts as one rank of a group (``device="cuda"``). ``symmetric.py`` explains
its numbers, and ``cuda.py`` its times. After ``use_link(...)``,
``torch.distributed.init_process_group("domino_emulated", ...)`` does the same as ``init``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from domino_compile.emulate.group import EmulatedGroup, Transport
from domino_compile.emulate.settings import EmulateError, Link, current, use_link
from domino_compile.emulate.trace import Record, Summary, reset_trace, summary, trace

BACKEND = "domino_emulated"
LONE_BACKEND = "domino_lone_rank"

__all__ = [
    "BACKEND",
    "EmulateError",
    "EmulatedGroup",
    "Record",
    "Summary",
    "init",
    "init_lone_rank",
    "reset_trace",
    "summary",
    "trace",
    "use_link",
]


def init(
    link: Link,
    *,
    rank: int | None = None,
    world_size: int | None = None,
    device: str = "cpu",
    groups: Mapping[str, Link] | None = None,
    ctas: int | None = None,
    local_share: float = 1.0,
    exclusive: bool = True,
    stream_priority: int = 0,
    store: dist.Store | None = None,
    init_method: str | None = None,
    timeout: timedelta | None = None,
) -> None:
    """Make the default process group an emulated one. Groups made from it are emulated too.

    Args:
        link: The link's name, JSON file or table; with ``None`` collectives take no time.
        rank: This process's rank; ``None`` takes the environment's ``RANK``, or 0 on CUDA.
        world_size: The number of ranks; ``None`` takes ``WORLD_SIZE``, or the table's number on
            CUDA.
        device: ``cpu`` for real gloo ranks, or ``cuda`` for this process as the only rank.
        groups: The links of particular groups; see ``use_link``.
        ctas: On CUDA, the thread blocks that a collective holds; ``None`` takes the table's number.
        local_share: On CUDA, the share of an all-reduce's payload that moves through local memory.
        exclusive: On CUDA, whether to keep matrix products off the multiprocessors that are held.
        stream_priority: On CUDA, the priority of a group's stream: 0 is NCCL's default in torch,
            and -1 is high.
        store: The same as in ``torch.distributed.init_process_group``; CPU only.
        init_method: The same as in ``torch.distributed.init_process_group``; CPU only.
        timeout: The same as in ``torch.distributed.init_process_group``.

    Raises:
        LinkError: The link is unknown, or its file is malformed.
        EmulateError: A value is out of range, or CUDA is requested but not available.
    """
    use_link(
        link,
        groups=groups,
        device=device,
        ctas=ctas,
        local_share=local_share,
        exclusive=exclusive,
        stream_priority=stream_priority,
    )
    if device == "cuda":
        table = current().link
        ranks = world_size or (table.ranks if table is not None else 8)
        dist.init_process_group(
            BACKEND, rank=rank or 0, world_size=ranks, store=dist.HashStore(), timeout=timeout
        )
        return
    if store is not None or init_method is not None:
        rank = int(os.environ.get("RANK", "-1")) if rank is None else rank
        world_size = world_size or int(os.environ.get("WORLD_SIZE", "-1"))
    dist.init_process_group(
        BACKEND,
        rank=-1 if rank is None else rank,
        world_size=-1 if world_size is None else world_size,
        store=store,
        init_method=init_method,
        timeout=timeout,
    )


def init_lone_rank(ranks: int) -> None:
    """Make the default process group one whose first rank is this process; no other exists (CPU).

    Collectives take no time. ``symmetric.py`` explains their numbers.

    Args:
        ranks: The size of the group.
    """
    use_link(None)
    dist.init_process_group(LONE_BACKEND, rank=0, world_size=ranks, store=dist.HashStore())


def _create_lone(options: Any, _backend_options: Any) -> EmulatedGroup:
    from domino_compile.emulate.symmetric import LoneTransport

    rank, size = options.group_rank, options.group_size
    return EmulatedGroup(LoneTransport(rank, size), rank, size)


def _create(options: Any, _backend_options: Any) -> EmulatedGroup:
    """Create a group of this backend; torch calls this for every group."""
    rank, size = options.group_rank, options.group_size
    if current().device == "cuda":
        from domino_compile.emulate.cuda import CudaTransport

        return EmulatedGroup(CudaTransport(rank, size), rank, size)
    from domino_compile.emulate.gloo import GlooTransport

    transport: Transport = GlooTransport(options.store, rank, size, options.timeout)
    return EmulatedGroup(transport, rank, size)


dist.Backend.register_backend(BACKEND, _create, extended_api=True, devices=["cpu", "cuda"])
dist.Backend.register_backend(LONE_BACKEND, _create_lone, extended_api=True, devices=["cpu"])
