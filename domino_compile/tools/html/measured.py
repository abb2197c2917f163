"""The reports of ``domino profile`` and ``domino poc``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from domino_compile.report.explanation import explanation_of
from domino_compile.tools.html.candidates import candidate_tables
from domino_compile.tools.html.data import Curve, GraphView, ReportData, Table
from domino_compile.tools.html.dumps import DumpError, read_dump
from domino_compile.tools.html.tiles import origin_text, poc_tiles, profile_tiles
from domino_compile.tools.poc.result import BASELINE, DOMINO, PocResult
from domino_compile.tools.profiling.result import ProfileResult

Facts = tuple[tuple[str, str], ...]
_NAMES = {BASELINE: "Inductor alone", DOMINO: "with domino"}


def profile_report(found: ProfileResult, facts: Facts, tables: Sequence[Table]) -> ReportData:
    """The report of a profile: what it recommends, its numbers, a measured step of every rank."""
    return ReportData(
        title=f"domino profile: {found.script}",
        facts=facts,
        explanation=explanation_of(found.plans),
        verdict=(found.recommendation.text, *found.notes),
        timelines=found.timelines,
        tables=(*tables, *candidate_tables(found.plans)),
        tiles=profile_tiles(found),
        origin=origin_text(found.link),
    )


def poc_report(
    found: PocResult, facts: Facts, tables: Sequence[Table], dumps: Path | None
) -> ReportData:
    """The report of a proof of concept.

    Args:
        found: its result.
        facts: where it comes from.
        tables: its numbers.
        dumps: what domino dumped, if it did.
    """
    graphs: tuple[GraphView, ...] = ()
    if dumps is not None and dumps.is_dir():
        try:
            graphs = read_dump(dumps).graphs
        except DumpError:  # the script's own options sent them elsewhere
            graphs = ()
    return ReportData(
        title=f"domino poc: {found.script}",
        facts=facts,
        explanation=explanation_of(found.reports),
        verdict=(found.verdict.text, *found.notes),
        timelines=tuple(t for name in (BASELINE, DOMINO) for t in found.timelines.get(name, ())),
        graphs=graphs,
        curves=tuple(_curves(found)),
        tables=(*tables, *candidate_tables(found.reports)),
        tiles=poc_tiles(found),
        origin=origin_text(found.first.link),
    )


def _curves(found: PocResult) -> list[Curve]:
    curves = []
    for name, variant in found.variants.items():
        losses, norms = _known(variant.losses), _known(variant.grad_norms)
        if losses or norms:
            curves.append(Curve(_NAMES.get(name, name), losses, norms))
    return curves


def _known(values: Sequence[float | None]) -> tuple[float, ...]:
    """The values, if every step has one."""
    known = tuple(value for value in values if value is not None)
    return known if len(known) == len(values) else ()
