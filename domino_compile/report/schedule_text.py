"""Writes the schedule of one graph as text in two columns: compute and wire.

::

       at us  compute                                          wire
         0.0  s0  5 fused kernels
        12.1  s0  matmul     addmm_3_s0      blocks.0.out
        24.0  s0  launch     all_reduce_s0   blocks.0.out      +  3.0 KiB, 152.0 us
        24.0  s1  2 fused kernels                              |
        30.2  s1  matmul     addmm_3_s1      blocks.0.out      |
        41.9  s0  wait       all_reduce_s0, exposed: compute idle 134.1 us  |
"""

from __future__ import annotations

from dataclasses import replace

from domino_compile.report import ScheduleReport, Step, WireReport
from domino_compile.report.origin import bytes_text, count_text, piece_text, piece_words, time_text

LEGEND = """\
Times are predicted by the cost model, not measured. s0 is slice 0; -- is uncut or mixed work.
Wire column: + launched, | on the wire, : queued behind another collective of its group.
"""


def schedule_text(entry: ScheduleReport) -> str:
    """Return the schedule of one graph as text."""
    return "\n".join([*_totals(entry), "", LEGEND, *_timeline(entry), "", *_hidden(entry)]) + "\n"


def _totals(entry: ScheduleReport) -> list[str]:
    wire = sum(w.wire_us for w in entry.wires)
    return [
        f"{entry.phase}: predicted {time_text(entry.predicted_us)}"
        f" (before scheduling: {time_text(entry.predicted_before_us)})",
        f"  compute      {time_text(entry.compute_us)}",
        f"  on the wire  {time_text(wire)} in {count_text(len(entry.wires), 'collective')}",
        f"  exposed      {time_text(entry.exposed_us)}"
        f" (before scheduling: {time_text(entry.exposed_before_us)})",
        f"  peak memory  {bytes_text(entry.peak_bytes)}, estimated"
        f" (before scheduling: {bytes_text(entry.peak_bytes_before)})",
    ]


def _timeline(entry: ScheduleReport) -> list[str]:
    wires = {w.name: w for w in entry.wires}
    steps = _merge_fused(entry.steps)
    rows = [_compute_column(step) for step in steps]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(4)]
    width = sum(widths) + 2 * 3
    lanes: list[WireReport | None] = []
    lines = [f"{'at us':>10}  {'compute'.ljust(width)}  wire"]
    for step, row in zip(steps, rows, strict=True):
        cells = "  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True))
        lines.append(f"{step.start_us:10.1f}  {cells}  {_wire_column(step, wires, lanes)}".rstrip())
    total = max(entry.predicted_us, 0.0)
    lines.append(f"{total:10.1f}  end")
    return lines


def _merge_fused(steps: list[Step]) -> list[Step]:
    """Combine adjacent fused kernels into one row, even if they belong to different slices."""
    merged: list[Step] = []
    for step in steps:
        last = merged[-1] if merged else None
        if last is None or step.kind != "fused" or last.kind != "fused":
            merged.append(step)
            continue
        merged[-1] = replace(
            last,
            **(last.piece if last.piece == step.piece else {"slice": None, "part": None}),
            end_us=step.end_us,
            kernels=last.kernels + step.kernels,
        )
    return merged


def _compute_column(step: Step) -> tuple[str, str, str, str]:
    where = piece_text(step.slice, step.part) or "--"
    if step.kind == "fused":
        return where, "fused", count_text(step.kernels, "kernel"), ""
    if step.kind != "wait":
        return where, step.kind, step.name, step.source
    still = step.end_us - step.start_us
    remark = f"exposed: compute idle {still:.1f} us" if still > 0 else "already complete"
    return where, step.kind, step.collective, remark


def _wire_column(step: Step, wires: dict[str, WireReport], lanes: list[WireReport | None]) -> str:
    """Return one character per collective in flight, and update ``lanes``."""
    now = step.start_us
    for i, wire in enumerate(lanes):
        if wire is not None and wire.start_us + wire.wire_us <= now + 1e-6:
            lanes[i] = None
    while lanes and lanes[-1] is None:
        lanes.pop()
    if step.kind != "launch" or step.name not in wires:
        return " ".join(_lane(wire, now) for wire in lanes)
    launched = wires[step.name]
    place = lanes.index(None) if None in lanes else len(lanes)
    lanes[place : place + 1] = [launched]
    marks = ["+" if wire is launched else _lane(wire, now) for wire in lanes]
    return f"{' '.join(marks)}  {bytes_text(launched.bytes)}, {launched.wire_us:.1f} us"


def _lane(wire: WireReport | None, now: float) -> str:
    if wire is None:
        return " "
    return ":" if now < wire.start_us - 1e-6 else "|"


def _hidden(entry: ScheduleReport) -> list[str]:
    lines = ["How each collective is hidden:"]
    for wire in entry.wires:
        hidden = 1 - wire.exposed_us / wire.wire_us if wire.wire_us else 1.0
        under = list(wire.hidden_under)
        if wire.hidden_under_fused:
            under.append(count_text(wire.hidden_under_fused, "fused kernel"))
        where = piece_words(wire.slice, wire.part) or "whole"
        lines.append(
            f"  {wire.name} ({where}, {wire.source}): {hidden:.0%} of {wire.wire_us:.1f} us hidden"
            f" under {', '.join(under) or 'nothing'}"
        )
    return lines if entry.wires else []
