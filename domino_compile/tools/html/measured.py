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


def profile_report(result: ProfileResult, facts: Facts, tables: Sequence[Table]) -> ReportData:
    """Return the report of a profile: its advice, its numbers, a measured step of every rank."""
    return ReportData(
        title=f"domino profile: {result.script}",
        facts=facts,
        explanation=explanation_of(result.plans),
        verdict=(result.recommendation.text, *result.notes),
        timelines=result.timelines,
        tables=(*tables, *candidate_tables(result.plans)),
        tiles=profile_tiles(result),
        origin=origin_text(result.link),
    )


def poc_report(
    result: PocResult, facts: Facts, tables: Sequence[Table], dumps: Path | None
) -> ReportData:
    """Return the report of a proof of concept.

    Args:
        result: The result of the proof of concept.
        facts: What says where it comes from.
        tables: The numbers of the result.
        dumps: The folder of what domino dumped, if it did.
    """
    graphs: tuple[GraphView, ...] = ()
    if dumps is not None and dumps.is_dir():
        try:
            graphs = read_dump(dumps).graphs
        except DumpError:  # the script's own options sent them elsewhere
            graphs = ()
    return ReportData(
        title=f"domino poc: {result.script}",
        facts=facts,
        explanation=explanation_of(result.reports),
        verdict=(result.verdict.text, *result.notes),
        timelines=tuple(t for name in (BASELINE, DOMINO) for t in result.timelines.get(name, ())),
        graphs=graphs,
        curves=tuple(_curves(result)),
        tables=(*tables, *candidate_tables(result.reports)),
        tiles=poc_tiles(result),
        origin=origin_text(result.first.link),
    )


def _curves(result: PocResult) -> list[Curve]:
    curves = []
    for name, variant in result.variants.items():
        losses, norms = _known(variant.losses), _known(variant.grad_norms)
        if losses or norms:
            curves.append(Curve(_NAMES.get(name, name), losses, norms))
    return curves


def _known(values: Sequence[float | None]) -> tuple[float, ...]:
    """Return the values, if every step has one."""
    known = tuple(value for value in values if value is not None)
    return known if len(known) == len(values) else ()
