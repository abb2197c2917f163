"""A timeline as plain data: spans of compute and of collectives in flight."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from domino_compile.cost.intervals import union_us

#: Raised whenever a field of ``Timeline.as_dict`` is renamed, removed or changes its meaning.
SCHEMA_VERSION = 1
COMPUTE = "compute"
WIRE = "wire"
#: Kinds of spans in which compute stands still.
STILL = ("wait", "late")


@dataclass(frozen=True)
class Span:
    """One piece of work, or one collective in flight. Times in microseconds.

    Attributes:
        lane: ``compute``, or ``wire``.
        name: The name of the kernel or operation.
        kind: In the compute lane ``gemm``, ``attention``, ``pointwise``, ``copies``, ``random``,
            ``other`` or ``compute`` (unspecified), or idle: ``wait`` (for a collective on the
            wire) and ``late`` (for another rank or the transport, after an emulated transfer
            ended). On the wire the collective, such as ``all_reduce``.
        begin_us: When it begins.
        end_us: When it ends.
        group: On the wire, the process group's name, if known.
        slice: The slice of the rows it belongs to, or the part of columns where those alone are
            cut; None for whole work, or if not known.
        phase: ``forward``, ``backward``, ``inference``, or empty if not known.
        collective: For flights and waits the captured collective as ``graph:node``, the key of a
            row of an explanation; empty if not known.
        source: The module or the user's line; empty if not known.
    """

    lane: str
    name: str
    kind: str
    begin_us: float
    end_us: float
    group: str = ""
    slice: int | None = None
    phase: str = ""
    collective: str = ""
    source: str = ""


@dataclass(frozen=True)
class Timeline:
    """One step of one program on one rank.

    Attributes:
        title: The title, such as ``Inductor alone``.
        rank: The rank.
        measured: Whether it was measured by a profiler and not predicted by the cost model.
        emulated: Whether it was measured on an emulated link.
        spans: The spans, sorted by their beginning; the first begins near 0.
    """

    title: str
    rank: int
    measured: bool
    emulated: bool
    spans: tuple[Span, ...]

    @property
    def step_us(self) -> float:
        """Return the time from the beginning of the first span to the end of the last."""
        if not self.spans:
            return 0.0
        return max(s.end_us for s in self.spans) - min(s.begin_us for s in self.spans)

    @property
    def wire_us(self) -> float:
        """Return how long a collective was in flight. Several at once count once."""
        return union_us(self._pairs(WIRE))

    @property
    def compute_us(self) -> float:
        """Return how long something computed."""
        return union_us(self._pairs(COMPUTE))

    @property
    def exposed_us(self) -> float:
        """Return how long a collective was in flight while nothing computed."""
        work = self._pairs(COMPUTE)
        return union_us([*work, *self._pairs(WIRE)]) - union_us(work)

    def summary(self) -> str:
        """Return the title with the totals and their origin."""
        how = "measured, one traced step" if self.measured else "predicted"
        if self.emulated:
            how += ", emulated link"
        return (
            f"{self.title}: {_ms(self.step_us)} ms, {_ms(self.wire_us)} ms on the wire, "
            f"{_ms(self.exposed_us)} ms of it exposed ({how})"
        )

    def _pairs(self, lane: str) -> list[tuple[float, float]]:
        spans = (s for s in self.spans if s.lane == lane and s.kind not in STILL)
        return [(s.begin_us, s.end_us) for s in spans]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data, without the empty fields of spans."""
        spans = [{k: v for k, v in asdict(s).items() if v not in ("", None)} for s in self.spans]
        return {"schema_version": SCHEMA_VERSION, **asdict(self), "spans": spans}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Timeline:
        """Undo ``as_dict``.

        Raises:
            ValueError: The data have another schema version.
        """
        data = dict(data)
        if (version := data.pop("schema_version", None)) != SCHEMA_VERSION:
            raise ValueError(f"timeline of schema version {version}, expected {SCHEMA_VERSION}")
        return Timeline(**{**data, "spans": tuple(Span(**span) for span in data["spans"])})


def _ms(microseconds: float) -> str:
    """Return milliseconds with three digits, and never with an exponent."""
    value = microseconds / 1e3
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}" if value >= 1e-3 else "0"
