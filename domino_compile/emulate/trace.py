"""The records of all emulated collectives, and a summary of how much was hidden."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class Record:
    """One emulated collective. Times in seconds are read from ``time.monotonic``.

    Attributes:
        name: The collective, one of ``domino_compile.links.COLLECTIVES``.
        nbytes: Its size by the conventions of ``domino_compile.links.table``.
        group: The name of the process group.
        link: The name of the link table (``free`` if collectives take no time).
        ranks: The size of the group.
        wire_ms: The time on the wire, from the table.
        launch_s: The time at which this rank launched it.
        start_s: The time at which the wire took it: the launch, or the end of the previous
            collective.
        end_s: ``start_s + wire_ms``; no wait returns earlier. On CUDA, where the device keeps the
            time, ``start_s`` and ``end_s`` are the host's forecast.
        ctas: The thread blocks that a collective holds on a GPU, from the table.
        done_s: The time at which the first wait returned; ``None`` before that, and always on CUDA.
        exposed_ms: How long a wait blocked while this collective or an earlier one was on the wire;
            ``None`` on CUDA, where a kernel trace shows it.
        late_ms: How long it was still waiting after the emulated transfer ended, because the real
            transport or another rank was late; ``None`` on CUDA.
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
        """Return the exposed plus the late time, in which waits blocked their threads."""
        if self.exposed_ms is None or self.late_ms is None:
            return None
        return self.exposed_ms + self.late_ms


@dataclass(frozen=True)
class Summary:
    """How much of a trace's wire time was hidden, on an emulated link. Barriers do not count.

    Attributes:
        collectives: The number of collectives.
        wire_ms: The total time on the wire.
        exposed_ms: The total time that waits blocked while the wire was busy; ``None`` if unknown
            (CUDA).
        late_ms: The total time that they were still waiting after that; ``None`` if unknown.
        hidden_fraction: ``1 - exposed_ms / wire_ms``, at least 0; 1 without any wire time; ``None``
            if unknown.
        emulated: Always True.
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
    """Append a record to this process's trace."""
    with _lock:
        _records.append(record)


def trace() -> list[Record]:
    """Return copies of this process's records since the last ``reset_trace``, in launch order."""
    with _lock:
        return [dataclasses.replace(record) for record in _records]


def reset_trace() -> None:
    """Forget all records. Collectives in flight stay out of the next trace."""
    with _lock:
        _records.clear()


def summary(records: Iterable[Record] | None = None) -> Summary:
    """Return the wire, exposed and hidden time of ``records`` (default: the current trace)."""
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
        """Occupy the wire for ``wire_us``; return launch, start and end in seconds."""
        with self._lock:
            launch = time.monotonic()
            start = max(launch, self._free_s)
            self._free_s = start + wire_us * 1e-6
            return launch, start, self._free_s
