"""The tables of ``benchmarks.public_tables`` in ``docs/predictions.md``."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.page import ROOT, as_table, put
from benchmarks.public_step import SYSTEMS, Row

PAGE = ROOT / "docs" / "predictions.md"
SUMMARY, TABLE, TERMS, RATES = (
    f"benchmarks.public_tables {part}" for part in ("summary", "rows", "terms", "rates")
)
TITLES = (
    *("System", "Model, release or variant", "Ranks", "Checkpointing", "Reported"),
    *("As stated", "Error", "Calibrated", "Error", "Missing, and what would explain it"),
)
#: Charon, arXiv 2605.17164: overall, and of training on a large cluster.
REFERENCE, REFERENCE_CLUSTER = 0.0535, 0.0374


def rendered(page: str, found: dict[str, Any], public: dict[str, Any]) -> str:
    """Return the page with all tables in their places.

    Args:
        page: the page.
        found: the published results.
        public: what others reported, with sources.
    """
    page = put(page, SUMMARY, summary(found["rows"]))
    page = put(page, TABLE, table(found["rows"], public))
    page = put(page, TERMS, terms(found["rows"]))
    return put(page, RATES, rates(found["clocks"]))


def scored(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with tensor parallelism: those that a calibration has not seen."""
    return [row for row in rows if not row["control"]]


def summary(rows: Sequence[Row]) -> str:
    """Return the mean error by group of rows."""
    groups = {
        "torchtitan, bf16": [
            r for r in rows if r["source"] != "bridge" and r["precision"] == "bf16"
        ],
        "torchtitan, float8": [
            r for r in rows if r["source"] != "bridge" and r["precision"] == "fp8"
        ],
        **{
            f"Megatron-Bridge, {SYSTEMS[name].name}": [
                row for row in rows if row["source"] == "bridge" and row["system"] == name
            ]
            for name in SYSTEMS
        },
        "**all**": list(rows),
        "all without a reservation in their source": [row for row in rows if not row["note"]],
    }
    lines = [_summary(name, scored(members)) for name, members in groups.items()]
    titles = (
        "Rows with tensor parallelism",
        "Rows",
        "As stated: mean, worst",
        "Calibrated: mean, worst",
    )
    return as_table(titles, [line for line in lines if line])


def _summary(name: str, rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    return [name, str(len(rows)), *(_errors(rows, which) for which in ("stated", "calibrated"))]


def _errors(rows: Sequence[Row], which: str) -> str:
    errors = [row[which]["error"] for row in rows if row[which]]
    if not errors:
        return ""
    worst = max(errors, key=abs)
    return f"{statistics.mean(map(abs, errors)):.1%}, {worst:+.1%}"


def table(rows: Sequence[Row], public: dict[str, Any]) -> str:
    """Return every row, by source, and what was not predicted."""
    parts = []
    for name, source in public["sources"].items():
        members = [row for row in rows if row["source"] == name]
        link = f"https://github.com/{source['repository']}/blob/{source['commit']}/{source['path']}"
        where = f"[{source['repository']}, {source['path']}]({link})"
        body = as_table(TITLES, [cells(row) for row in members])
        parts.append(f"### {source['title']}\n\nSource: {where}\n\n{body}")
    left = "\n".join(f"* {reason}" for reason in public["not_predicted"])
    return "\n\n".join([*parts, f"### Not predicted\n\n{left}"])


def cells(row: Row) -> list[str]:
    """Return a row of the table."""
    note = f" ({row['note']})" if row["note"] else ""
    return [
        SYSTEMS[row["system"]].name,
        f"{row['model']}, {row['label']}{note}",
        ranks(row),
        row["ac"],
        f"{row['tokens_per_s_per_gpu']:g}",
        *_prediction(row["stated"]),
        *_prediction(row["calibrated"]),
        "calibrates" if row["control"] else needed(row),
    ]


def ranks(row: Row) -> str:
    """Return how a job is divided."""
    degrees = [f"TP {row['tp']}" if row["tp"] > 1 else ""]
    degrees += [f"{name.upper()} {row[name]}" for name in ("pp", "cp", "vp") if row[name] > 1]
    return ", ".join([*filter(None, degrees), f"{row['gpus']} GPUs"])


def _prediction(found: dict[str, Any] | None) -> list[str]:
    if not found:
        return ["", ""]
    return [f"{found['tokens_per_s_per_gpu']:.0f}", f"{found['error']:+.1%}"]


def needed(row: Row) -> str:
    """Say which term would have to change by how much for the calibrated prediction to be right.

    The rows without tensor parallelism fix what computes. What they do not contain is the rest, and
    of that the largest term is the one that is named.
    """
    found = row["calibrated"]
    if not found:
        return ""
    missing = row["reported_step_ms"] - found["step_ms"]
    unseen = {
        name: found["terms_ms"][name] for name in ("exposed TP", "pipeline bubble", "data parallel")
    }
    name = max(unseen, key=lambda term: unseen[term])
    factor = 1 + missing / unseen[name]
    share = missing / row["reported_step_ms"]
    return (
        f"{share:+.1%} of the step; {name} {factor:.2f}x"
        if factor > 0
        else f"{share:+.1%} of the step; more than all of {name}"
    )


def terms(rows: Sequence[Row]) -> str:
    """Return what each kind of step consists of, once for each job and prediction."""
    names = list(dict.fromkeys(name for row in rows for name in row["stated"]["terms_ms"]))
    seen: dict[tuple[str, ...], list[str]] = {}
    for row in scored(rows):
        found = row["calibrated"] or row["stated"]
        share = [f"{found['terms_ms'].get(name, 0.0) / found['step_ms']:.0%}" for name in names]
        head = [
            SYSTEMS[row["system"]].name,
            f"{row['model']}, {row['task']}",
            ranks(row),
            row["precision"],
        ]
        seen.setdefault((*head, str(row["gbs"])), [*head, f"{found['step_ms'] / 1e3:.2f}", *share])
    titles = ("System", "Model", "Ranks", "Type", "Step, s", *names)
    return as_table(titles, list(seen.values()))


def rates(clocks: dict[str, float]) -> str:
    """Return the rates that the predictions use, and where they come from."""
    lines = [
        [
            system.name,
            f"{system.device.half_tflops * system.clock:.0f}",
            f"{system.device.memory_gb_s * system.memory:.0f}",
            "; ".join(
                f"{key.split()[1]} {system.device.half_tflops * clock:.0f}"
                for key, clock in clocks.items()
                if key.split()[0] == name
            ),
            system.rule,
        ]
        for name, system in SYSTEMS.items()
    ]
    titles = (
        *("System", "bf16 products, TFLOP/s, as stated", "copies, GB/s"),
        *("the same products, calibrated", "the rule"),
    )
    return as_table(titles, lines)
