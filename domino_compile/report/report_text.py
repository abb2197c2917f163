"""Writes the report of a compile as text, in the user's terms: lines, batch, collectives."""

from __future__ import annotations

from itertools import groupby

from domino_compile.report import CandidateReport, CollectiveReport, CompileReport, ScheduleReport
from domino_compile.report.origin import bytes_text, short_line, time_text


def report_text(report: CompileReport) -> str:
    """Return the report of a compile as text."""
    lines = [report.summary(), f"options: {report.options}"]
    if report.axis:
        what = "tokens" if report.tokens else "rows"
        lines.append(f"cut along: {', '.join(report.axis)}; {what}: {' + '.join(report.slices)}")
    if report.columns:
        lines.append(f"products in front of collectives: columns {' + '.join(report.columns)}")
    lines += ["", *_collectives(report.collectives)]
    if report.status == "sliced":
        lines += ["", *_joins(report)]
    if report.candidates:
        lines += ["", *_candidates(report.candidates)]
    if report.schedules:
        lines += ["", *_schedules(report.schedules), *_memory(report)]
    return "\n".join(lines) + "\n"


def _collectives(collectives: list[CollectiveReport]) -> list[str]:
    if not collectives:
        return ["No collective in this graph."]
    rows = []
    for entry, same in groupby(collectives, key=_what):
        count = len(list(same))
        kind, group, ranks, payload, phase, action, _, _ = entry
        times = f"{count} x " if count > 1 else ""
        rows.append(
            (
                phase,
                f"{times}{kind}",
                bytes_text(int(payload)),
                f"group {group} ({ranks} ranks)",
                action,
                entry,
            )
        )
    widths = [max(len(str(row[i])) for row in rows) for i in range(5)]
    lines = ["Collectives found, in the order of the graph (bytes of the uncut collective):"]
    for row in rows:
        cells = (str(row[i]).ljust(widths[i]) for i in range(5))
        lines.append(("  " + "  ".join(cells)).rstrip())
        *_, source, reason = row[5]
        lines += [f"      {text}" for text in (short_line(source), reason) if text]
    return lines


def _what(entry: CollectiveReport) -> tuple[str, ...]:
    return (
        entry.kind,
        entry.group,
        str(entry.ranks),
        str(entry.bytes),
        entry.phase,
        entry.action,
        entry.source,
        entry.reason,
    )


def _joins(report: CompileReport) -> list[str]:
    if not report.joins:
        return [
            "Joined inside the graph: nothing (only outputs and parameter gradients are whole)."
        ]
    lines = ["Joined inside the graph (the operation needs the whole value):"]
    for join in report.joins:
        lines.append(f"  {join.value} for {join.needed_by}: {join.reason}")
        if place := short_line(join.source):
            lines.append(f"      {place}")
    return lines


def _candidates(candidates: list[CandidateReport]) -> list[str]:
    """List the candidates that were compared to choose the cut."""
    lines = ["Candidates, with predicted time for a step of forward and backward (not measured):"]
    width = max(len(entry.name) for entry in candidates)
    for entry in candidates:
        about = "about " if entry.estimated else ""
        verdict = "chosen" if entry.chosen else entry.reason
        time = f"{about}{time_text(entry.predicted_us)}"
        lines.append(f"  {entry.name.ljust(width)}  {time.rjust(16)}  {verdict}")
    return lines


def _schedules(entries: list[ScheduleReport]) -> list[str]:
    lines = ["Predicted times (cost model, not measured; see */09.schedule.txt):"]
    header = ("", "step", "compute", "wire", "exposed", "exposed before scheduling")
    rows = [header] + [
        (
            entry.phase,
            time_text(entry.predicted_us),
            time_text(entry.compute_us),
            time_text(sum(w.wire_us for w in entry.wires)),
            time_text(entry.exposed_us),
            time_text(entry.exposed_before_us),
        )
        for entry in entries
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(size) for cell, size in zip(row[1:], widths[1:], strict=True)]
        lines.append("  " + "   ".join(cells))
    return lines


def _memory(report: CompileReport) -> list[str]:
    """Return a line with the estimated memory of a step, if there is an estimate."""
    if not report.step_peak_bytes:
        return []
    peak, held = bytes_text(report.step_peak_bytes), bytes_text(report.input_bytes)
    return [f"Peak memory of a step: estimated {peak}, including {held} of parameters and inputs"]
