"""Measures a group's collectives for different payloads, as curves of a link table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from domino_compile.errors import first_line
from domino_compile.links import Curve
from domino_compile.tools.bench.kernels import record
from domino_compile.tools.calibrate.clock import Clock, Run, iterations_for
from domino_compile.tools.calibrate.ranks import Ranks
from domino_compile.tools.calibrate.settings import Settings

COLLECTIVES = ("all_reduce", "reduce_scatter", "all_gather")


@dataclass(frozen=True)
class Measured:
    """One measured collective.

    Attributes:
        curve: The times, which are equal on all ranks.
        raised: The payloads in bytes whose time was raised to that of a smaller payload, because
            the times of a link table must not fall.
    """

    curve: Curve
    raised: tuple[int, ...]


def call_of(collective: str, full: torch.Tensor, group: Any) -> Run:
    """Return a function that runs one collective with the payload ``full`` of a link table.

    Args:
        collective: One of ``COLLECTIVES``.
        full: The input and output of ``all_reduce``, the input of ``reduce_scatter``, or the output
            of ``all_gather``. Its length is a multiple of the group's size.
        group: The process group.
    """
    if collective == "all_reduce":
        return partial(dist.all_reduce, full, group=group)
    shard = torch.zeros(full.numel() // group.size(), dtype=full.dtype, device=full.device)
    if collective == "reduce_scatter":
        scatter = _newest("reduce_scatter_single", "reduce_scatter_tensor")
        return partial(scatter, shard, full, group=group)
    gather = _newest("all_gather_single", "all_gather_into_tensor")
    return partial(gather, full, shard, group=group)


def _newest(name: str, before: str) -> Callable[..., object]:
    """Return a function by its name in torch 2.13, which renamed it, or by its older name."""
    function: Callable[..., object] = getattr(dist, name, None) or getattr(dist, before)
    return function


def unsupported(ranks: Ranks, collective: str, group: Any, dtype: torch.dtype) -> str:
    """Return why the backend cannot run a collective, equal on all ranks; empty if it can."""
    reason = ""
    try:
        call_of(collective, payload_of(4, group.size(), dtype, ranks.device), group)()
    except (NotImplementedError, RuntimeError) as error:
        reason = first_line(error)
    (failed,) = ranks.slowest([float(bool(reason))])
    return (reason or "another rank refused it") if failed else ""


def payload_of(nbytes: int, size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return zeros of at least ``nbytes``, rounded up to whole elements for each rank."""
    elements = -(-nbytes // dtype.itemsize)
    return torch.zeros(-(-elements // size) * size, dtype=dtype, device=device)


def measure(
    ranks: Ranks,
    clock: Clock,
    settings: Settings,
    collective: str,
    group: Any,
    dtype: torch.dtype,
    tick: Callable[[str], None],
) -> Measured:
    """Measure the curve of one collective. All groups of this size run at once; the slowest counts.

    Args:
        ranks: All ranks; each must make the same call.
        clock: The clock of this rank's device.
        settings: The sizes and rounds.
        collective: One of ``COLLECTIVES``.
        group: The group of this rank.
        dtype: The type of the payload.
        tick: A function that is told the next measurement, before each size.
    """
    sizes: list[int] = []
    times: list[float] = []
    for nbytes in (1, *settings.sizes):  # the first one is the floor
        tick(f"{collective} {nbytes / 1024:g} KiB" if nbytes > 1 else f"{collective}, smallest")
        payload = payload_of(nbytes, group.size(), dtype, ranks.device)
        real = payload.numel() * payload.element_size()
        if nbytes > 1 and sizes[1:] and real <= sizes[-1]:
            continue  # rounded up to the previous size
        sizes.append(real)
        times.append(median_us(ranks, clock, settings, call_of(collective, payload, group)))
    floor, *curve = ranks.slowest(times)
    return monotone(sizes[1:], curve, floor)


def blocks_held(ranks: Ranks, settings: Settings, group: Any, dtype: torch.dtype) -> int | None:
    """Return the thread blocks of an all-reduce of the largest payload, from the profiler's trace.

    Returns:
        The largest number on any rank; ``None`` if the profiler does not know it (no GPU).
    """
    blocks = 0
    if ranks.device.type == "cuda":
        payload = payload_of(settings.sizes[-1], group.size(), dtype, ranks.device)
        kernels = record(call_of("all_reduce", payload, group))
        blocks = max((kernel.blocks for kernel in kernels if kernel.kind == "wire"), default=0)
    (most,) = ranks.slowest([float(blocks)])
    return int(most) or None


def median_us(ranks: Ranks, clock: Clock, settings: Settings, run: Run) -> float:
    """Return the median microseconds of one call over rounds in which all ranks call at once."""
    clock.time_us(run, 2)  # warm-up: connections, buffers
    ranks.barrier()
    # Every rank makes the same number of calls; otherwise ranks would wait for each other forever.
    (estimate,) = ranks.slowest([clock.time_us(run, 2)])
    iterations = iterations_for(estimate, settings.round_s)
    samples = []
    for _ in range(settings.rounds):
        ranks.barrier()
        samples.append(clock.time_us(run, iterations))
    return statistics.median(samples)


def monotone(sizes: Sequence[int], times: Sequence[float], floor: float) -> Measured:
    """Return a curve in which no payload takes less time than a smaller one.

    Args:
        sizes: The payloads in bytes, increasing.
        times: The microseconds of each payload.
        floor: The microseconds of the smallest possible payload.
    """
    points: list[tuple[int, float]] = []
    raised: list[int] = []
    highest = 0.0
    for nbytes, time in zip(sizes, times, strict=True):
        if time < highest:
            raised.append(nbytes)
        highest = max(highest, time)
        points.append((nbytes, highest))
    return Measured(Curve(tuple(points), min(floor, points[0][1])), tuple(raised))
