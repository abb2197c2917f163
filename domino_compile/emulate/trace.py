"""The record of every emulated collective, and what it says about hiding."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class Record:
    """One emulated collective. Times in seconds are of ``time.monotonic``.

    Attributes:
        name: the collective, as in ``domino_compile.links.COLLECTIVES``.
        nbytes: its size by the conventions of ``domino_compile.links.table``.
        group: name of the process group.
        link: name of the link table (``free`` if collectives take no time).
        ranks: size of the group.
        wire_ms: time on the wire, from the table.
        launch_s: when this rank launched it.
        start_s: when the wire took it up: the launch, or the end of the collective before it.
        end_s: ``start_s + wire_ms``: no wait returns earlier. On CUDA, where the device keeps the
            time, ``start_s`` and ``end_s`` are the host's forecast.
        ctas: thread blocks that the link's table says a collective holds on a GPU.
        done_s: when the first wait returned; None before that, and always on CUDA.
        exposed_ms: how long a wait blocked while the wire was busy, this collective's time on it
            or others' before; None on CUDA (ask a kernel trace).
        late_ms: how long it blocked beyond that, because the real transport or another rank was
            late; None on CUDA.
    """

    name: str
    nbytes: int
    group: str
    link: str
    ranks: int
    wire_ms: float
    launch_s: float
    start_s: float
    end_s: float
    ctas: int | None = None
    done_s: float | None = None
    exposed_ms: float | None = 0.0
    late_ms: float | None = 0.0

    @property
    def blocked_ms(self) -> float | None:
        """How long waits kept their threads, which is exposed plus late."""
        if self.exposed_ms is None or self.late_ms is None:
            return None
        return self.exposed_ms + self.late_ms


@dataclass(frozen=True)
class Summary:
    """What a trace says about hiding. All of it is about an emulated link.

    Attributes:
        collectives: how many (barriers are left out, here and below).
        wire_ms: total time on the wire.
        exposed_ms: total time that waits blocked while the wire was busy; None if unknown (CUDA).
        late_ms: total time they blocked beyond that; None if unknown.
        hidden_fraction: ``1 - exposed_ms / wire_ms``, at least 0; 1 without any wire time; None if
            unknown.
        emulated: always True.
    """

    collectives: int
    wire_ms: float
    exposed_ms: float | None
    late_ms: float | None
    hidden_fraction: float | None
    emulated: bool = True

    def __str__(self) -> str:
        text = f"emulated link: {self.collectives} collectives, wire {self.wire_ms:.2f} ms"
        if self.exposed_ms is None or self.hidden_fraction is None:
            return f"{text}, exposed unknown"
        exposed = f"exposed {self.exposed_ms:.2f} ms, hidden {self.hidden_fraction:.1%}"
        return f"{text}, {exposed}, late ranks or transport {self.late_ms:.2f} ms"


_lock = threading.Lock()
_records: list[Record] = []


def add(record: Record) -> None:
    """Append to this process's trace."""
    with _lock:
        _records.append(record)


def trace() -> list[Record]:
    """Copies of this process's records, in launch order, since the last ``reset_trace``."""
    with _lock:
        return [dataclasses.replace(record) for record in _records]


def reset_trace() -> None:
    """Forget all records. Collectives in flight stay out of the next trace."""
    with _lock:
        _records.clear()


def summary(records: Iterable[Record] | None = None) -> Summary:
    """Wire, exposed and hidden time of ``records`` (default: the current trace)."""
    chosen = [r for r in (trace() if records is None else records) if r.name != "barrier"]
    wire_ms = sum(record.wire_ms for record in chosen)
    if any(record.blocked_ms is None for record in chosen):
        return Summary(len(chosen), wire_ms, None, None, None)
    exposed_ms = sum(record.exposed_ms or 0.0 for record in chosen)
    late_ms = sum(record.late_ms or 0.0 for record in chosen)
    hidden = 1.0 if wire_ms == 0 else max(0.0, 1 - exposed_ms / wire_ms)
    return Summary(len(chosen), wire_ms, exposed_ms, late_ms, hidden)


class Wire:
    """The wire of one group: one collective at a time, in launch order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free_s = 0.0

    def occupy(self, wire_us: float) -> tuple[float, float, float]:
        """Take the wire for ``wire_us``. Returns launch, start and end in seconds."""
        with self._lock:
            launch = time.monotonic()
            start = max(launch, self._free_s)
            self._free_s = start + wire_us * 1e-6
            return launch, start, self._free_s
