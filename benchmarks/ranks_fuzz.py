"""Random runs on two to four real ranks, each with one fault injected on one rank.

    python -m benchmarks.ranks_fuzz --runs 500 --out benchmarks/results/ranks_fuzz.json

A rank is slow or killed, or has another version of the package or of torch, other options, other
rates, half a rates file or half a cache. No run may hang, give a wrong number, or leave ranks that
do different things (``tests/ranks/fuzzed.py``). The table has one row per fault.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.ranks.fuzzed import COMPILE_S, FAULTS, TIMEOUT_S, Runs, described, drawn, judged


def main() -> int:
    """Run them; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description="Random runs on ranks with faults.")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    until, began = time.monotonic() + 60 * chosen.minutes, time.monotonic()
    wrong: list[str] = []
    for block, ranks in enumerate(chosen.ranks):
        left = (until - time.monotonic()) / (len(chosen.ranks) - block)
        count = chosen.runs // len(chosen.ranks)
        wrong += _block(ranks, count, chosen.seed, time.monotonic() + left, rows)
        _write(chosen, rows, wrong, time.monotonic() - began)
    return 1 if wrong else 0


def _block(
    ranks: int, count: int, seed: int, until: float, rows: dict[str, dict[str, Any]]
) -> list[str]:
    """Runs with one number of ranks, whose processes live until one is killed."""
    wrong = []
    with Runs(ranks) as pool:
        for number in range(seed, seed + count):
            if time.monotonic() > until:
                break
            case = drawn(1000 * number + ranks, ranks)
            with tempfile.TemporaryDirectory() as folder:
                answers = pool.collect(
                    *("tests.ranks.fuzzed:run", described(case, Path(folder))),
                    timeout=TIMEOUT_S + COMPILE_S,
                )
            said = judged(case, answers)
            row = rows.setdefault(
                case.fault, {"runs": 0, "outcomes": Counter(), "longest_s": 0.0, "wrong": 0}
            )
            row["runs"] += 1
            row["outcomes"].update(answer["outcome"] for answer in answers)
            row["longest_s"] = max(row["longest_s"], *(a.get("seconds", 0.0) for a in answers))
            row["wrong"] += bool(said)
            if said:
                wrong.append(f"{said}: {case}: {answers}")
                print(wrong[-1], file=sys.stderr, flush=True)
    return wrong


def _write(
    chosen: argparse.Namespace, rows: dict[str, dict[str, Any]], wrong: list[str], seconds: float
) -> None:
    import torch

    order = [*FAULTS, *(fault for fault in rows if fault not in FAULTS)]
    faults = [
        {
            "fault": fault,
            "runs": rows[fault]["runs"],
            "wrong": rows[fault]["wrong"],
            "outcomes_of_ranks": dict(rows[fault]["outcomes"].most_common()),
            "longest_s": round(rows[fault]["longest_s"], 1),
        }
        for fault in order
        if fault in rows
    ]
    result = {
        "runs": sum(row["runs"] for row in rows.values()),
        "seed": chosen.seed,
        "ranks": chosen.ranks,
        "seconds": round(seconds),
        "check_timeout_s": TIMEOUT_S,
        "torch": torch.__version__,
        "faults": faults,
        "wrong": wrong,
    }
    text = json.dumps(result, indent=1) + "\n"
    if chosen.out is not None:
        chosen.out.write_text(text)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
