"""What becomes of each collective of a model, and what would change it: ``domino_compile.explain``.

Nothing needs to be measured: the model is captured and planned as in training, and the times are
the cost model's. A fake group is enough, so that a laptop can answer for a cluster::

    with domino_compile.fake_ranks(8):
        model = build_tensor_parallel_model()
        print(domino_compile.explain(model, tokens, labels))
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.distributed as dist

from domino_compile import _compat
from domino_compile.analysis import reasons
from domino_compile.errors import DominoError
from domino_compile.report import CollectiveReport, CompileReport, WireReport, reports
from domino_compile.report.origin import bytes_text, short_line, time_text

#: Raised whenever a key of ``Explanation.as_dict`` is renamed, removed or changes its meaning.
SCHEMA_VERSION = 1
#: A collective counts as hidden if no more than this part of its time is exposed.
HIDDEN = 0.05


class OverlapError(DominoError, RuntimeError):
    """A collective is not hidden although that was required."""


@dataclass(frozen=True)
class Row:
    """One collective of the captured graph. Times in microseconds, predicted.

    Attributes:
        graph: number of the compiled graph.
        name: its node in the captured graph; ``graph:name`` is its key everywhere.
        phase: ``forward`` or ``backward``.
        kind: ``all_reduce``, ...
        group: the process group's name.
        ranks: its size.
        bytes: payload of the uncut collective.
        module: path of the module, if it is in one.
        source: the user's line.
        status: ``hidden``, ``partly hidden``, ``exposed``, ``merged`` (into another one),
            ``left alone`` (no tensor parallelism).
        parts: into how many it was cut.
        wire_us: time on the wire, all parts together.
        exposed_us: of that, while nothing computes.
        uncut_exposed_us: the same of the uncut program, which does nothing about it.
        hidden_under: the modules whose products and attention compute meanwhile.
        reason: why it is not hidden.
        advice: what would change that, where something is known to.
    """

    graph: int
    name: str
    phase: str
    kind: str
    group: str
    ranks: int
    bytes: int
    module: str
    source: str
    status: str
    parts: int
    wire_us: float
    exposed_us: float
    uncut_exposed_us: float
    hidden_under: tuple[str, ...]
    reason: str = ""
    advice: str = ""

    @property
    def key(self) -> str:
        """What timelines call it."""
        return f"{self.graph}:{self.name}"

    @property
    def place(self) -> str:
        """Module and line, as far as known."""
        return "  ".join(filter(None, (self.module, short_line(self.source)))) or self.kind

    @property
    def overlapped(self) -> bool:
        """Whether nothing is left to be wished for."""
        return self.status not in ("exposed", "partly hidden")


@dataclass(frozen=True)
class Explanation:
    """One row for every collective of every graph, and what was said of the graphs."""

    rows: tuple[Row, ...]
    graphs: tuple[str, ...]

    @property
    def uncut_exposed_us(self) -> float:
        """Predicted time that the uncut program leaves exposed."""
        return sum(row.uncut_exposed_us for row in self.rows)

    @property
    def wire_us(self) -> float:
        """Predicted time on the wire, all collectives together."""
        return sum(row.wire_us for row in self.rows)

    @property
    def exposed_us(self) -> float:
        """Predicted time that nothing hides."""
        return sum(row.exposed_us for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "schema": SCHEMA_VERSION,
            "predicted": True,
            "wire_us": round(self.wire_us, 3),
            "exposed_us": round(self.exposed_us, 3),
            "uncut_exposed_us": round(self.uncut_exposed_us, 3),
            "graphs": list(self.graphs),
            "collectives": [asdict(row) for row in self.rows],
        }

    def to_json(self) -> str:
        """As indented JSON."""
        return json.dumps(self.as_dict(), indent=1) + "\n"

    def check(self) -> None:
        """Require that every tensor-parallel collective is hidden.

        Raises:
            OverlapError: names the first that is not, and why.
        """
        missing = [row for row in self.rows if not row.overlapped]
        if missing:
            first = missing[0]
            advice = f"; {first.advice}" if first.advice else ""
            raise OverlapError(
                f"{len(missing)} of {len(self.rows)} collectives are not hidden; the first: "
                f"{first.phase} {first.kind} of {first.place}: {first.reason}{advice}"
            )

    def __str__(self) -> str:
        lines = [*self.graphs]
        for row in self.rows:
            cut = f" in {row.parts} parts" if row.parts > 1 else ""
            times = f"{time_text(row.exposed_us)} of {time_text(row.wire_us)} exposed"
            what = f"{row.kind} {bytes_text(row.bytes)} over {row.ranks} ranks"
            lines.append(f"{row.phase:8} {what}: {row.status}{cut}, {times}")
            lines.append(f"    {row.place}")
            if row.hidden_under:
                lines.append(f"    under {', '.join(row.hidden_under[:6])}")
            lines += [f"    {text}" for text in (row.reason, row.advice) if text]
        total = f"{time_text(self.exposed_us)} of {time_text(self.wire_us)}"
        return "\n".join([*lines, f"predicted, not measured: {total} on the wire is exposed"])


def explain(
    model: Callable[..., Any],
    *inputs: Any,
    options: Mapping[str, object] | None = None,
    require: str | None = None,
    dynamic: bool | None = False,
    **keywords: Any,
) -> Explanation:
    """Capture and plan a model, and say what becomes of every collective.

    Runs the model's forward once on the inputs (under ``fake_ranks`` with fake collectives); with
    gradients enabled the backward is captured and planned as well.

    Args:
        model: a module or function, compiled or not.
        *inputs: what it is called with.
        options: of the backend, as for ``torch.compile(..., backend="domino")``.
        require: ``overlap`` makes a collective that is not hidden an error.
        dynamic: as for ``torch.compile``.
        **keywords: likewise.

    Raises:
        OptionError: an option is unknown or has a bad value.
        OverlapError: ``require="overlap"``, and a collective is not hidden.
        ValueError: another value of ``require``.
    """
    if require not in (None, "overlap"):
        raise ValueError(f"require must be 'overlap' or None, not {require!r}")
    plain = getattr(model, "_orig_mod", model)
    chosen: dict[str, Any] = {"lowering": "eager", "check_ranks": False, **(options or {})}
    known = len(reports())
    with _compat.backward_at_once():
        torch.compile(plain, backend="domino", options=chosen, dynamic=dynamic)(*inputs, **keywords)
    found = explanation_of(reports()[known:])
    if require:
        found.check()
    return found


def explanation_of(compiled: Iterable[CompileReport]) -> Explanation:
    """What the reports of compiled graphs say, a row for every collective."""
    compiled = list(compiled)
    rows = [row for report in compiled for row in _rows(report)]
    return Explanation(tuple(rows), tuple(report.summary() for report in compiled))


def _rows(report: CompileReport) -> Iterator[Row]:
    """The collectives found, and those that were made of several of them."""
    flown: dict[tuple[str, str], list[WireReport]] = {}
    places: dict[str, str] = {}
    for schedule in report.schedules:
        places |= {step.name: step.source for step in schedule.steps}
        for wire in schedule.wires:
            flown.setdefault((schedule.phase, wire.origin), []).append(wire)
    inference = any(schedule.phase == "inference" for schedule in report.schedules)
    for entry in report.collectives:
        phase = "inference" if inference else entry.phase
        yield _row(report, entry, flown.pop((phase, entry.name), []), places)
    for (phase, name), wires in flown.items():
        found = [e for e in report.collectives if e.action == "merged" and e.phase == phase]
        like = (found or report.collectives)[0]
        place = f"{wires[0].source} and those merged with it"
        made = replace(like, name=name, action="sliced", reason="", source="unknown", module=place)
        yield _row(report, made, wires, places)


def _row(
    report: CompileReport,
    entry: CollectiveReport,
    wires: list[WireReport],
    places: Mapping[str, str],
) -> Row:
    under = [places.get(name) or name for wire in wires for name in wire.hidden_under]
    wire_us = sum(wire.wire_us for wire in wires)
    exposed_us = sum(wire.exposed_us for wire in wires)
    status, reason, advice = _status(report, entry, bool(wires), exposed_us, wire_us)
    uncut = report.uncut.wires if report.uncut is not None else []
    return Row(
        graph=report.graph,
        name=entry.name,
        phase=entry.phase,
        kind=entry.kind,
        group=entry.group,
        ranks=entry.ranks,
        bytes=entry.bytes,
        module=entry.module,
        source=entry.source,
        status=status,
        parts=max(1, len(wires)),
        wire_us=round(wire_us, 3),
        exposed_us=round(exposed_us, 3),
        uncut_exposed_us=sum(w.exposed_us for w in uncut if w.origin == entry.name),
        hidden_under=tuple(dict.fromkeys(under)),
        reason=reason,
        advice=advice,
    )


def _status(
    report: CompileReport, entry: CollectiveReport, flew: bool, exposed_us: float, wire_us: float
) -> tuple[str, str, str]:
    """The status of a collective, the reason why it is not hidden, and what would change that."""
    if entry.action == "merged":
        return "merged", entry.reason, ""
    if not entry.tensor_parallel:
        return "left alone", entry.reason, ""
    if flew and exposed_us <= HIDDEN * wire_us:
        return "hidden", "", ""
    reason, advice = (
        (entry.reason, entry.advice) if entry.reason else (report.reason, report.advice)
    )
    if not reason:
        fallback = reasons.nothing_to_overlap() if flew else reasons.not_scheduled()
        reason, advice = fallback.text, fallback.advice
    partly = flew and exposed_us < (1 - HIDDEN) * wire_us
    return ("partly hidden" if partly else "exposed"), reason, advice


@contextmanager
def fake_ranks(ranks: int) -> Iterator[None]:
    """A default process group of ``ranks`` ranks of which this process is the first, alone.

    Its collectives do nothing. Meshes and groups made from it are fake as well.

    Raises:
        RuntimeError: there is a process group already.
        ValueError: fewer than two ranks.
    """
    if ranks < 2:
        raise ValueError(f"fake_ranks needs at least 2 ranks, not {ranks}")
    if dist.is_initialized():
        raise RuntimeError("fake_ranks: there is a process group already")
    _compat.start_fake_group(ranks)
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
