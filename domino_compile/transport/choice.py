"""Which collectives can use the transport, and why others cannot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from domino_compile import _compat
from domino_compile._compat import symmetric
from domino_compile._compat.operators import c10d
from domino_compile.graph.collectives import Site, tensor_bytes
from domino_compile.graph.tags import is_alone
from domino_compile.options import Options, PassName, Transport

#: The smallest payload of ``transport='auto'``: below, NCCL's low latency matters more. It is a
#: choice, not a measurement: payloads of 32 MiB and more were measured (docs/transport.md).
LEAST_BYTES = 4 << 20


@dataclass(frozen=True)
class Choice:
    """What decides the transport of a graph's collectives; the same on all ranks.

    Attributes:
        transport: The option.
        obstacle: Why no collective of this program may use it; empty if none is known.
    """

    transport: Transport
    obstacle: str = ""

    @staticmethod
    def of(options: Options) -> Choice | None:
        """Return what options decide; ``None``: NCCL carries all collectives."""
        if options.transport == "nccl":
            return None
        obstacle = ""
        if PassName.PIN in options.disable_passes:
            obstacle = "the order of its buffers is not pinned (disable_passes)"
        return Choice(options.transport, obstacle)

    def against(self, site: Site) -> str:
        """Return why a collective uses NCCL; empty if it does not."""
        return (
            self.obstacle
            or ("it is not tensor parallel" if is_alone(site.launch) else "")
            or against_kind(site)
            or self._against_worth(site)
            or against_group(site.group, device_of(site.launch))
        )

    def frees_multiprocessors(self, sites: Sequence[Site]) -> bool:
        """Return whether no large collective of a graph is left to NCCL, so products have room."""
        large = [site for site in sites if site.payload >= LEAST_BYTES]
        return bool(large) and not any(self.against(site) for site in large)

    def _against_worth(self, site: Site) -> str:
        if self.transport != "auto":
            return ""
        if site.payload < LEAST_BYTES:
            return f"smaller than {LEAST_BYTES >> 20} MiB"
        # Measured on two H200: 41.9 ms a step with copy engines, 41.4 ms with NCCL.
        return "NCCL is as fast" if site.launch.target is c10d.all_reduce.default else ""


def device_of(launch: fx.Node) -> torch.device:
    """Return the device of a collective's result."""
    device: torch.device = launch.meta["val"].device
    return device


def against_kind(site: Site) -> str:
    """Return why the transport has no such collective; empty if it does."""
    launch = site.launch
    target, value = launch.target, launch.meta["val"]
    kinds = (
        *(c10d.all_reduce.default, c10d.reduce_scatter_tensor.default),
        c10d.all_gather_into_tensor.default,
    )
    if target not in kinds:
        return f"{site.kind} is not supported"
    (sent,) = launch.all_input_nodes
    sizes = (*value.shape, *sent.meta["val"].shape)
    if not all(type(size) is int for size in sizes):
        return "dynamic sizes"
    if not sizes or 0 in sizes or value.ndim == 0:
        return "nothing or a single number is sent"
    if len(site.waits) != 1:
        return "its wait is not in the graph"
    if target is c10d.all_gather_into_tensor.default:
        return ""
    if launch.args[1] != "sum":
        return f"reduction {launch.args[1]!r} is not supported"
    if not value.dtype.is_floating_point or value.dtype.itemsize < 2:
        return f"sums of {value.dtype} are not supported"
    if target is c10d.all_reduce.default and value.numel() % _compat.group_size(site.group):
        return "the ranks cannot divide it"
    return ""


def against_group(name: str, device: torch.device) -> str:
    """Return why the ranks of a group cannot reach each other's memory; empty if they can."""
    shared = _compat.shared_store(name)
    if shared is None:
        return "the ranks of its group share no store (emulated, or a single rank)"
    _, ranks, _ = shared
    if not on_one_host(ranks):
        return "its ranks are on several hosts"
    if device.type == "cuda":
        return _against_gpus()
    return "" if device.type == "cpu" else f"device {device.type} is not supported"


def on_one_host(ranks: list[int]) -> bool:
    """Return whether global ranks run on one host, as far as the launcher says."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    if not here:
        _, world = _compat.rank_and_world()
        here = torch.cuda.device_count() if torch.cuda.is_available() else world
    return len({rank // max(1, here) for rank in ranks}) == 1


def environment(options: Options) -> str:
    """Return what besides the graph decides the transport, for the keys of caches.

    It includes this process's rank in every group: graphs whose sums are made of slots have it, so
    ranks must not take each other's code from a cache that they share.
    """
    if Choice.of(options) is None:
        return ""
    gpus = _against_gpus() if torch.cuda.is_available() else "no GPU"
    launched = os.environ.get("LOCAL_WORLD_SIZE", "")
    return f"transport: {gpus or 'peers'}, {launched} ranks a host, {_compat.memberships()}"


def _against_gpus() -> str:
    if torch.version.hip is not None:
        return "AMD GPUs are not supported"
    if not symmetric.has_stream_memory_operations():
        return "the CUDA driver lacks memory operations of streams (CUDA 11.7)"
    count = torch.cuda.device_count()
    if count < 2:
        return "each process sees only its own GPU"
    if not symmetric.reach_each_other(list(range(count))):
        return "its GPUs have no peer access"
    return ""


def slot_bytes(launch: fx.Node, ranks: int) -> int:
    """Return the bytes of one piece of what a launch sends."""
    (sent,) = launch.all_input_nodes
    nbytes = tensor_bytes(sent.meta["val"])
    whole: Any = c10d.all_gather_into_tensor.default
    exchanged = launch.target is c10d.all_reduce.default and ranks == 2
    return nbytes if launch.target is whole or exchanged else nbytes // ranks
