"""Predict throughput that others measured and published, from one GPU's rates and link tables.

Usage: ``python -m benchmarks.public_tables`` captures the shapes that
``benchmarks/results/public_tables.json`` lacks (no GPU; half a minute each), predicts every row of
``public_rows.json``, and writes the results and the tables in ``docs/predictions.md``. ``--again``
captures all shapes anew; ``--render`` only predicts and writes.

Each row is predicted twice:

===========  ===================================================================================
as stated    with the cost model's rates, changed by the rule of ``public_step.SYSTEMS`` alone
calibrated   with a clock that makes the rows *without* tensor parallelism of the same system and
             precision come out right; these rows are not scored
===========  ===================================================================================
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import public_page
from benchmarks.page import ROOT
from benchmarks.public_capture import Shape, Terms, base_rates, layer_and_end
from benchmarks.public_step import (
    SYSTEMS,
    Rates,
    Row,
    calibrated,
    shape_in,
    step_ms,
    step_terms,
    tokens_per_s,
)

ROWS = Path(__file__).parent / "public_rows.json"
RESULTS = ROOT / "benchmarks/results/public_tables.json"
#: The work of a layer and of the end of the model, by shape.
Captures = dict[str, tuple[Terms, Terms]]
#: Clocks that a calibration looks at, relative to the table's.
SLOWEST, FASTEST = 0.2, 3.0


def main() -> None:
    """Capture, predict and write."""
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("--again", action="store_true", help="capture all shapes anew")
    parser.add_argument("--render", action="store_true", help="capture nothing")
    asked = parser.parse_args()
    public = json.loads(ROWS.read_text())
    known = {} if asked.again else captures_in(RESULTS)
    if not asked.render:
        for shape in shapes(public["rows"]):
            if str(shape) not in known:
                print(shape, flush=True)
                known[str(shape)] = layer_and_end(shape)
    found = results(public["rows"], known)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    public_page.PAGE.write_text(public_page.rendered(public_page.PAGE.read_text(), found, public))


def shapes(rows: Sequence[Row]) -> list[Shape]:
    """Return what has to be captured, each once."""
    return list(dict.fromkeys(shape_in(row) for row in rows))


def captures_in(path: Path) -> Captures:
    """Return the captures of an earlier run, if they were costed with today's rates."""
    found = json.loads(path.read_text()) if path.exists() else {"base": None}
    if found["base"] != base_rates():
        return {}
    return {
        name: (Terms(**parts["layer"]), Terms(**parts["end"]))
        for name, parts in found["captures"].items()
    }


def results(rows: Sequence[Row], captures: Captures) -> dict[str, Any]:
    """Return everything that is published: rates, captures, calibrations and all rows."""
    clocks = calibrations(rows, captures)
    return {
        "base": base_rates(),
        "captures": {
            name: {"layer": _rounded(asdict(layer)), "end": _rounded(asdict(end))}
            for name, (layer, end) in captures.items()
        },
        "clocks": clocks,
        "rows": [predicted(row, captures, clocks) for row in rows],
    }


def predicted(row: Row, captures: Captures, clocks: dict[str, float]) -> Row:
    """Return a row with both predictions."""
    rates = SYSTEMS[row["system"]]
    found = dict(row)
    clock = clocks.get(calibration_of(row))
    for name, used in (("stated", rates), ("calibrated", clock and calibrated(rates, clock))):
        if not used:
            found[name] = None
            continue
        terms = step_terms(row, *captures[str(shape_in(row))], used)
        total = sum(terms.values())
        found[name] = _rounded(
            {
                "terms_ms": terms,
                "step_ms": total,
                "tokens_per_s_per_gpu": tokens_per_s(row, total),
                "error": tokens_per_s(row, total) / row["tokens_per_s_per_gpu"] - 1,
            }
        )
    found["reported_step_ms"] = _rounded(step_ms(row, row["tokens_per_s_per_gpu"]))
    return found


def calibration_of(row: Row) -> str:
    """Return the name of the rows that share a calibration."""
    return f"{row['system']} {row['precision']}"


def calibrations(rows: Sequence[Row], captures: Captures) -> dict[str, float]:
    """Return the clock of each system and precision that has rows without tensor parallelism."""
    controls: dict[str, list[Row]] = {}
    for row in rows:
        if row["control"]:
            controls.setdefault(calibration_of(row), []).append(row)
    return {name: _rounded(fitted(found, captures)) for name, found in controls.items()}


def fitted(controls: Sequence[Row], captures: Captures) -> float:
    """Return the clock with which the mean logarithm of predicted over reported is 0."""
    rates = SYSTEMS[controls[0]["system"]]

    def off(clock: float) -> float:
        return statistics.mean(_off(row, captures, calibrated(rates, clock)) for row in controls)

    low, high = SLOWEST, FASTEST
    if off(low) > 0 or off(high) < 0:
        raise ValueError(f"no clock makes {calibration_of(controls[0])} come out right")
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if off(middle) < 0 else (low, middle)
    return low


def _off(row: Row, captures: Captures, rates: Rates) -> float:
    total = sum(step_terms(row, *captures[str(shape_in(row))], rates).values())
    return math.log(tokens_per_s(row, total) / row["tokens_per_s_per_gpu"])


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(member) for key, member in value.items()}
    return float(f"{value:.6g}") if abs(value) > 1e-6 else 0.0  # differences of equal sums


if __name__ == "__main__":
    main()
