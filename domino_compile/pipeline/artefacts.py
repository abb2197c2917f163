"""What the dump of one compile holds besides the graphs: plan, schedules, orders, certificate."""

from __future__ import annotations

import json

from domino_compile.pipeline.order import SCHEDULE, title
from domino_compile.report import CompileReport, ScheduleReport
from domino_compile.report.dump import Dump
from domino_compile.report.graph_rows import GraphRows
from domino_compile.report.report_text import report_text
from domino_compile.report.schedule_text import schedule_text
from domino_compile.verify.certificate import certificate_json, certificate_text
from domino_compile.verify.order_record import OrderRecord
from domino_compile.verify.verifier import Verifier


def write_plan(dump: Dump, report: CompileReport, rows: GraphRows) -> None:
    """Write plan and report, and the operations before and after if they were recorded."""
    dump.write("plan.json", report.to_json())
    dump.write("report.txt", report_text(report))
    if rows.before:
        dump.write("graphs.json", rows.to_json())


def write_schedule(dump: Dump, entry: ScheduleReport) -> None:
    """Write the schedule of one lowered graph."""
    dump.write(f"{entry.phase}/{title(SCHEDULE.name)}.txt", schedule_text(entry))


def write_order(dump: Dump, record: OrderRecord) -> None:
    """Write what was established about the order of a graph's emitted code."""
    certificate, phase = record.certificate, record.phase
    written = json.dumps(certificate.as_dict(), indent=1, sort_keys=True) + "\n"
    dump.write(f"{phase}/order.json", written)
    dump.write(f"{phase}/order.txt", f"{phase} code: {certificate.as_text()}")


def write_certificate(dump: Dump, verifier: Verifier) -> None:
    """Write what was established about the passes, if they were checked."""
    if verifier.checked or verifier.problem:
        verdict = verifier.checked, verifier.problem, verifier.orders
        dump.write("certificate.txt", certificate_text(*verdict))
        dump.write("certificate.json", certificate_json(*verdict))
