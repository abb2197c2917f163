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
from domino_compile.ratio import ms_text, times_text
from domino_compile.report import CollectiveReport, CompileReport, WireReport, reports
from domino_compile.report.origin import bytes_text, count_text, short_line, time_text
from domino_compile.report.times import TIME_KEYS, GraphTimes, together

#: Raised whenever a key of ``Explanation.as_dict`` is renamed, removed or changes its meaning.
SCHEMA_VERSION = 2
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
        uncut_exposed_us: The exposed time with Inductor alone.
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
        """Return whether there is nothing left to improve."""
        return self.status not in ("exposed", "partly hidden")


@dataclass(frozen=True)
class Graph:
    """One compiled graph.

    Attributes:
        number: Its number among the compiled graphs.
        status: ``sliced``, ``reordered`` or ``inductor``.
        summary: One line: what was done, and why not more.
        device: The device whose rates the predictions use; empty if nothing was predicted.
        link: The name of the link table that they use.
        link_ranks: The number of ranks that the table holds for.
        ranks: The sizes of the groups whose collectives are in the graph.
        times: The predicted times of a step; None if nothing is predicted.
        forced: Whether options asked for the cut without comparing it with others.
    """

    number: int
    status: str
    summary: str
    device: str = ""
    link: str = ""
    link_ranks: int = 0
    ranks: tuple[int, ...] = ()
    times: GraphTimes | None = None
    forced: bool = False

    def __str__(self) -> str:
        return self.summary

    @property
    def basis(self) -> str:
        """Return what the predictions rest on; empty if there are none."""
        if not self.device:
            return ""
        others = [ranks for ranks in self.ranks if ranks != self.link_ranks]
        scaled = (
            f", {self.link_ranks}-rank table used for {_listed(others)} ranks" if others else ""
        )
        return f"device {self.device}, link {self.link}{scaled}"

    @property
    def warning(self) -> str:
        """Return a sentence if the cut is predicted to make the step slower; otherwise nothing."""
        if self.status == "inductor" or self.times is None or not self.times.slower:
            return ""
        forced = "the cut that the options ask for" if self.forced else "this plan"
        return (
            f"graph {self.number}: {forced} is predicted {self.times.change} against Inductor "
            "alone; slices='auto' and guard='predict' would not choose it"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain data; times are in milliseconds, and null if nothing is predicted."""
        times = self.times.as_dict() if self.times is not None else dict.fromkeys(TIME_KEYS)
        return {
            "graph": self.number,
            "status": self.status,
            "summary": self.summary,
            "device": self.device or None,
            "link": self.link or None,
            "link_ranks": self.link_ranks or None,
            "group_ranks": list(self.ranks),
            **times,
        }


def _listed(numbers: Iterable[int]) -> str:
    return " and ".join(map(str, numbers))


@dataclass(frozen=True)
class Explanation:
    """One row for each collective of each graph, and what was done with each graph."""

    rows: tuple[Row, ...]
    graphs: tuple[Graph, ...]

    @property
    def times(self) -> GraphTimes:
        """Return the predicted times of a step that runs each graph once."""
        return together(graph.times for graph in self.graphs if graph.times is not None)

    @property
    def uncut_exposed_us(self) -> float:
        """Return the predicted exposed time with Inductor alone."""
        return self.times.inductor.exposed_us

    @property
    def wire_us(self) -> float:
        """Return the predicted time during which a collective is on the wire."""
        return self.times.planned.wire_us or 0.0

    @property
    def exposed_us(self) -> float:
        """Return the predicted exposed time."""
        return self.times.planned.exposed_us

    def verdict(self) -> list[str]:
        """Return what a reader should know first, in sentences."""
        if not any(graph.times for graph in self.graphs):
            return []
        times = self.times
        lines = [
            f"Predicted (not measured) against Inductor alone: {times.change}{_hidden(times)}."
        ]
        if times.planned == times.inductor:
            step = ms_text(times.inductor.step_us / 1e3)
            lines = [
                f"Predicted (not measured): {step} a step, as with Inductor alone{_hidden(times)}."
            ]
        merged = sum(row.status == "merged" for row in self.rows)
        if merged and times.inductor.wire_us and times.planned.wire_us:
            wire = times_text(times.inductor.wire_us / 1e3, times.planned.wire_us / 1e3)
            lines.append(f"On the wire: {wire}, {count_text(merged, 'collective')} merged.")
        for basis in dict.fromkeys(graph.basis for graph in self.graphs if graph.basis):
            lines.append(f"Planned for {basis}.")
        warnings = [graph.warning for graph in self.graphs if graph.warning]
        return lines + [f"Warning: {warning}." for warning in warnings]

    def as_dict(self) -> dict[str, Any]:
        """Return the explanation as plain data."""
        return {
            "schema": SCHEMA_VERSION,
            "predicted": True,
            **self.times.as_dict(),
            "wire_us": round(self.wire_us, 3),
            "exposed_us": round(self.exposed_us, 3),
            "uncut_exposed_us": round(self.uncut_exposed_us, 3),
            "graphs": [graph.as_dict() for graph in self.graphs],
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
        lines = [graph.summary for graph in self.graphs] + self.verdict()
        for row in self.rows:
            cut = f" in {row.parts} parts" if row.parts > 1 else ""
            times = f"{time_text(row.exposed_us)} of {time_text(row.wire_us)} exposed"
            what = f"{row.kind} {bytes_text(row.bytes)} over {row.ranks} ranks"
            lines.append(f"{row.phase:8} {what}: {row.status}{cut}, {times}")
            lines.append(f"    {row.place}")
            if row.hidden_under:
                lines.append(f"    under {', '.join(row.hidden_under[:6])}")
            lines += [f"    {text}" for text in (row.reason, row.advice) if text]
        return "\n".join(lines)


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
    return Explanation(tuple(rows), tuple(_graph(report) for report in compiled))


def _graph(report: CompileReport) -> Graph:
    return Graph(
        number=report.graph,
        status=report.status,
        summary=report.summary(),
        device=report.device,
        link=report.link,
        link_ranks=report.link_ranks,
        ranks=tuple(sorted({entry.ranks for entry in report.collectives})),
        times=report.times,
        forced=not report.candidates,
    )


def _hidden(times: GraphTimes) -> str:
    before, after = times.inductor.hidden, times.planned.hidden
    if before is None or after is None:
        return ""
    unchanged = times.planned == times.inductor
    was = "" if unchanged else f" (with Inductor alone: {before:.0%})"
    return f", {after:.0%} of the communication hidden{was}"


def _rows(report: CompileReport) -> Iterator[Row]:
    """Yield rows for the captured collectives, and for those that others were merged into."""
    launched: dict[tuple[str, str], list[WireReport]] = {}
    places: dict[str, str] = {}
    if report.status == "inductor":
        yield from _left_to_inductor(report)
        return
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


def _left_to_inductor(report: CompileReport) -> Iterator[Row]:
    """Yield rows for the collectives of a graph that Inductor alone compiles."""
    uncut = report.uncut
    places = {step.name: step.source for step in uncut.steps} if uncut is not None else {}
    for entry in report.collectives:
        wires = [w for w in uncut.wires if w.origin == entry.name] if uncut is not None else []
        yield _row(report, entry, wires, places)


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
