"""Explains the treatment of each collective of a model, and how to change it: ``explain``.

Nothing is measured: the model is captured and planned as in training, and the times come from the
cost model. A fake process group is enough, so a laptop can answer for a cluster::

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
#: A collective counts as hidden if at most this share of its time is exposed.
HIDDEN = 0.05


class OverlapError(DominoError, RuntimeError):
    """A collective is not hidden, although ``require="overlap"`` asks for it."""


@dataclass(frozen=True)
class Row:
    """One collective of the captured graph. Times are predicted and in microseconds.

    Attributes:
        graph: The number of the compiled graph.
        name: Its node in the captured graph; ``graph:name`` is its key everywhere.
        phase: ``forward`` or ``backward``.
        kind: ``all_reduce``, ...
        group: The process group's name.
        ranks: The number of ranks in the group.
        bytes: The payload of the uncut collective.
        module: The path of its module, if it is in one.
        source: The user's line.
        status: ``hidden``, ``partly hidden``, ``exposed``, ``merged`` (into another one),
            ``left alone`` (not tensor parallel).
        parts: The number of pieces it was cut into.
        wire_us: The time on the wire of all pieces together.
        exposed_us: The exposed share of ``wire_us``.
        uncut_exposed_us: The exposed time in the uncut program.
        hidden_under: The modules whose matrix products and attention compute during that time.
        reason: Why it is not hidden.
        advice: How to change that, if there is a known way.
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
        """Return the key that timelines use for it."""
        return f"{self.graph}:{self.name}"

    @property
    def place(self) -> str:
        """Return the module and the line, or the kind if neither is known."""
        return "  ".join(filter(None, (self.module, short_line(self.source)))) or self.kind

    @property
    def overlapped(self) -> bool:
        """Whether there is nothing left to improve."""
        return self.status not in ("exposed", "partly hidden")


@dataclass(frozen=True)
class Explanation:
    """One row for each collective of each graph, and one summary line per graph."""

    rows: tuple[Row, ...]
    graphs: tuple[str, ...]

    @property
    def uncut_exposed_us(self) -> float:
        """Return the predicted exposed time of the uncut program."""
        return sum(row.uncut_exposed_us for row in self.rows)

    @property
    def wire_us(self) -> float:
        """Return the predicted time on the wire of all collectives together."""
        return sum(row.wire_us for row in self.rows)

    @property
    def exposed_us(self) -> float:
        """Return the predicted exposed time."""
        return sum(row.exposed_us for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Return the explanation as plain data."""
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
        """Return the explanation as indented JSON."""
        return json.dumps(self.as_dict(), indent=1) + "\n"

    def check(self) -> None:
        """Require that every tensor-parallel collective is hidden.

        Raises:
            OverlapError: Names the first one that is not hidden, and the reason.
        """
        missing = [row for row in self.rows if not row.overlapped]
        if missing:
            first = missing[0]
            advice = f"; {first.advice}" if first.advice else ""
            raise OverlapError(
                f"{len(missing)} of {len(self.rows)} collectives are not hidden; the first is the "
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
        return "\n".join([*lines, f"predicted, not measured: {total} wire time is exposed"])


def explain(
    model: Callable[..., Any],
    *inputs: Any,
    options: Mapping[str, object] | None = None,
    require: str | None = None,
    dynamic: bool | None = False,
    **keywords: Any,
) -> Explanation:
    """Capture and plan a model, and explain the treatment of every collective.

    This runs the model's forward once on the inputs (under ``fake_ranks`` with fake collectives).
    If gradients are enabled, the backward is captured and planned too.

    Args:
        model: A module or function, compiled or not.
        *inputs: The positional arguments to call it with.
        options: The backend's options, as for ``torch.compile(..., backend="domino")``.
        require: ``overlap`` raises an error if a collective is not hidden.
        dynamic: As for ``torch.compile``.
        **keywords: The keyword arguments to call the model with.

    Raises:
        OptionError: An option is unknown or has a bad value.
        OverlapError: ``require="overlap"``, and a collective is not hidden.
        ValueError: ``require`` has another value.
    """
    if require not in (None, "overlap"):
        raise ValueError(f"require must be 'overlap' or None, not {require!r}")
    uncompiled = getattr(model, "_orig_mod", model)
    chosen: dict[str, Any] = {"lowering": "eager", "check_ranks": False, **(options or {})}
    earlier = len(reports())
    with _compat.backward_at_once():
        compiled = torch.compile(uncompiled, backend="domino", options=chosen, dynamic=dynamic)
        compiled(*inputs, **keywords)
    explanation = explanation_of(reports()[earlier:])
    if require:
        explanation.check()
    return explanation


def explanation_of(compiled: Iterable[CompileReport]) -> Explanation:
    """Return the explanation of compiled graphs, with one row per collective, from reports."""
    compiled = list(compiled)
    rows = [row for report in compiled for row in _rows(report)]
    return Explanation(tuple(rows), tuple(report.summary() for report in compiled))


def _rows(report: CompileReport) -> Iterator[Row]:
    """Yield rows for the captured collectives, and for those that others were merged into."""
    launched: dict[tuple[str, str], list[WireReport]] = {}
    places: dict[str, str] = {}
    for schedule in report.schedules:
        places |= {step.name: step.source for step in schedule.steps}
        for wire in schedule.wires:
            launched.setdefault((schedule.phase, wire.origin), []).append(wire)
    inference = any(schedule.phase == "inference" for schedule in report.schedules)
    for entry in report.collectives:
        phase = "inference" if inference else entry.phase
        yield _row(report, entry, launched.pop((phase, entry.name), []), places)
    for (phase, name), wires in launched.items():
        merged = [e for e in report.collectives if e.action == "merged" and e.phase == phase]
        like = (merged or report.collectives)[0]
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
    report: CompileReport,
    entry: CollectiveReport,
    scheduled: bool,
    exposed_us: float,
    wire_us: float,
) -> tuple[str, str, str]:
    """Return a collective's status, why it is not hidden, and how to change that."""
    if entry.action == "merged":
        return "merged", entry.reason, ""
    if not entry.tensor_parallel:
        return "left alone", entry.reason, ""
    if scheduled and exposed_us <= HIDDEN * wire_us:
        return "hidden", "", ""
    reason, advice = (
        (entry.reason, entry.advice) if entry.reason else (report.reason, report.advice)
    )
    if not reason:
        fallback = reasons.nothing_to_overlap() if scheduled else reasons.not_scheduled()
        reason, advice = fallback.text, fallback.advice
    partly = scheduled and exposed_us < (1 - HIDDEN) * wire_us
    return ("partly hidden" if partly else "exposed"), reason, advice


@contextmanager
def fake_ranks(ranks: int) -> Iterator[None]:
    """Use a fake default process group of ``ranks`` ranks, with this process as rank 0.

    Its collectives do nothing. Meshes and groups made from it are fake too.

    Raises:
        RuntimeError: There is a process group already.
        ValueError: ``ranks`` is less than two.
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
