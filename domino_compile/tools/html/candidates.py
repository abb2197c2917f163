"""The ways to treat a graph that were compared, as tables of a report."""

from __future__ import annotations

from collections.abc import Iterable

from domino_compile.report import CandidateReport, CompileReport
from domino_compile.report.origin import bytes_text, time_text
from domino_compile.tools.html.data import Table

COLUMNS = ("candidate", "step", "exposed", "peak memory", "outcome")


def candidate_tables(compiled: Iterable[CompileReport]) -> tuple[Table, ...]:
    """Return a table for every graph that had a choice; its times are predicted."""
    return tuple(
        Table(
            f"Candidates for graph {report.graph} (estimates, made before scheduling)",
            COLUMNS,
            tuple(_row(candidate) for candidate in report.candidates),
        )
        for report in compiled
        if report.candidates
    )


def _row(candidate: CandidateReport) -> tuple[str, ...]:
    known = not candidate.estimated
    return (
        candidate.name,
        f"{'' if known else 'at least '}{time_text(candidate.predicted_us)}",
        time_text(candidate.exposed_us) if known else "",
        bytes_text(candidate.peak_bytes) if known else "",
        "chosen" if candidate.chosen else candidate.reason,
    )
