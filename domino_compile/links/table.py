"""Link tables: how long one collective occupies the wire.

A table holds measured or modelled points ``bytes -> microseconds`` of some collectives, and answers
``time_us(collective, nbytes)`` for all of them.

``nbytes`` is the size of the *full* tensor, as in nccl-tests:

=================  ==========================================================================
``all_reduce``     payload of one rank (input and output have that size)
``all_gather``     total output of one rank (ranks x its shard)
``reduce_scatter`` total input of one rank (ranks x its result)
``all_to_all``     total input of one rank
``broadcast``      payload; the same for ``reduce``
``gather``         total data at the root (ranks x a shard); the same for ``scatter``
``barrier``        ignored: a barrier costs the floor of ``all_reduce``
=================  ==========================================================================

Bus bandwidth is ``bytes / time * factor`` with the factors of nccl-tests (doc/PERFORMANCE.md in
NVIDIA/nccl-tests): ``2(n-1)/n`` for all_reduce; ``(n-1)/n`` for all_gather, reduce_scatter,
all_to_all, gather and scatter; 1 for broadcast and reduce. If a table lacks a collective, its time
is derived from ``all_reduce`` at equal bus bandwidth, or at ``busbw_ratio`` times it if the table's
source measured that ratio.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from domino_compile.errors import DominoError, did_you_mean
from domino_compile.links.contention import Contention

COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "broadcast",
    "reduce",
    "gather",
    "scatter",
    "barrier",
)


class LinkError(DominoError, ValueError):
    """A link's name, a link file or a request to a link table is wrong."""


def busbw_factor(collective: str, ranks: int) -> float:
    """Return the factor in ``busbw = bytes / time * factor`` for ``ranks`` ranks (see the module).

    Raises:
        LinkError: The collective is unknown.
    """
    if collective == "all_reduce":
        return 2 * (ranks - 1) / ranks
    if collective in ("all_gather", "reduce_scatter", "all_to_all", "gather", "scatter"):
        return (ranks - 1) / ranks
    if collective in ("broadcast", "reduce"):
        return 1.0
    hint = did_you_mean(collective, COLLECTIVES)
    raise LinkError(f"unknown collective {collective!r}{hint}; known: {', '.join(COLLECTIVES)}")


@dataclass(frozen=True)
class Curve:
    """The time of one collective as a function of its size.

    Attributes:
        points: ``(bytes, microseconds)``, with increasing bytes and times that never decrease.
        floor_us: The microseconds of an empty payload, at most the first point's.
    """

    points: tuple[tuple[int, float], ...]
    floor_us: float

    def time_us(self, nbytes: int) -> float:
        """Return the microseconds for ``nbytes``, which are positive and monotone.

        The curve is a straight line from the floor to the first point, a power law (straight in
        log-log) between points, and has the last point's bus bandwidth beyond it.
        """
        first_bytes, first_us = self.points[0]
        if nbytes <= first_bytes:
            return self.floor_us + (first_us - self.floor_us) * max(nbytes, 0) / first_bytes
        last_bytes, last_us = self.points[-1]
        if nbytes >= last_bytes:
            return last_us * nbytes / last_bytes
        right = bisect.bisect_left(self.points, (nbytes, -math.inf))
        (b0, t0), (b1, t1) = self.points[right - 1], self.points[right]
        share = math.log(nbytes / b0) / math.log(b1 / b0)
        return t0 * math.pow(t1 / t0, share)

    def rescaled(self, factor: float) -> Curve:
        """Return a curve with the same floor, and the time above it multiplied by ``factor``."""
        points = tuple((b, self.floor_us + (t - self.floor_us) * factor) for b, t in self.points)
        return Curve(points, self.floor_us)


@dataclass(frozen=True)
class LinkTable:
    """The measured or modelled speed of collectives in one group of ranks.

    Attributes:
        name: The name for ``load_link``.
        ranks: The group size of the numbers (at least 2).
        nodes: The number of machines that the ranks are spread over.
        source: The origin of the numbers.
        curves: The curve of each measured collective; ``all_reduce`` is always there.
        busbw_ratio: For collectives without a curve, their bus bandwidth over all_reduce's.
        ctas: The thread blocks that a collective holds on the GPU (one per NCCL channel); 0 if
            copy engines carry it.
        made_up: Whether the numbers are invented (for demos), and not measured.
        note: Anything else that a reader of results should know.
        nccl: The NCCL version of the measurement, if known.
        modelled: Whether the numbers follow a formula, and not a measurement.
        contention: What collectives and compute cost each other; ``None`` if it was not measured.
    """

    name: str
    ranks: int
    nodes: int
    source: str
    curves: Mapping[str, Curve] = field(hash=False)
    busbw_ratio: Mapping[str, float] = field(default_factory=dict, hash=False)
    ctas: int = 16
    made_up: bool = False
    note: str = ""
    nccl: str = ""
    modelled: bool = False
    contention: Contention | None = None

    @property
    def kind(self) -> str:
        """The origin of the numbers, which is ``made up``, ``modelled`` or ``measured``."""
        return "made up" if self.made_up else "modelled" if self.modelled else "measured"

    def busbw_gb_s(self, collective: str, nbytes: int) -> float:
        """Return the bus bandwidth at ``nbytes`` (more than 0), in 10^9 bytes per second.

        Raises:
            LinkError: The collective is unknown, or is a barrier.
        """
        factor = busbw_factor(collective, self.ranks)
        return nbytes / self.time_us(collective, nbytes) * factor / 1e3

    def time_us(self, collective: str, nbytes: int) -> float:
        """Return the microseconds that one collective of ``nbytes`` occupies the wire.

        Args:
            collective: One of ``COLLECTIVES``.
            nbytes: The size by the conventions in the module docstring.

        Raises:
            LinkError: The collective is unknown.
        """
        if collective == "barrier":
            return self.curves["all_reduce"].floor_us
        curve = self.curves.get(collective)
        if curve is not None:
            return curve.time_us(nbytes)
        factor = busbw_factor(collective, self.ranks) / busbw_factor("all_reduce", self.ranks)
        slower = self.busbw_ratio.get(collective, 1.0)
        return self.curves["all_reduce"].time_us(nbytes) * factor / slower

    def scaled_to(self, ranks: int) -> LinkTable:
        """Return the same link for a group of ``ranks`` ranks: an extrapolation, named as such.

        Latency floors and bus bandwidth stay the same, so each collective's time above its floor
        scales with its bus-bandwidth factor. Groups that span more machines are not modelled.

        Raises:
            LinkError: ``ranks`` is less than 2.
        """
        if ranks == self.ranks:
            return self
        if ranks < 2:
            raise LinkError(f"link {self.name}: cannot scale to {ranks} ranks, at least 2 needed")
        curves = {
            name: curve.rescaled(busbw_factor(name, ranks) / busbw_factor(name, self.ranks))
            for name, curve in self.curves.items()
        }
        note = f"scaled from {self.ranks} ranks at equal bus bandwidth"
        return dataclasses.replace(
            self,
            name=f"{self.name}@{ranks}",
            ranks=ranks,
            curves=curves,
            note=f"{self.note}; {note}" if self.note else note,
        )

    def __str__(self) -> str:
        label = " (made up)" if self.made_up else ""
        return f"{self.name}{label}: {self.ranks} ranks on {self.nodes} node(s)"
