"""Reports of a compile, as data and as text: plans, dumps, explanations, faults, replays."""

from domino_compile.report.data import (
    SCHEMA_VERSION,
    Action,
    CandidateReport,
    CollectiveReport,
    CompileReport,
    FurtherReports,
    Join,
    MeasuredReport,
    ScheduleReport,
    Status,
    Step,
    WireReport,
    new_report,
    reports,
    reset_reports,
    withdrawn_on_error,
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
    "withdrawn_on_error",
]
