"""Reports of a compile, as data and as text: plans, dumps, explanations, faults, replays."""

from domino_compile.report.data import (
    SCHEMA_VERSION,
    CompileReport,
    FurtherReports,
    Status,
    new_report,
    reports,
    reset_reports,
    take_reports,
    withdrawn_on_error,
)
from domino_compile.report.parts import (
    Action,
    CandidateReport,
    CollectiveReport,
    Join,
    MeasuredReport,
    ScheduleReport,
    Step,
    WireReport,
)

__all__ = [
    "SCHEMA_VERSION",
    "Action",
    "CandidateReport",
    "CollectiveReport",
    "CompileReport",
    "FurtherReports",
    "Join",
    "MeasuredReport",
    "ScheduleReport",
    "Status",
    "Step",
    "WireReport",
    "new_report",
    "reports",
    "reset_reports",
    "take_reports",
    "withdrawn_on_error",
]
