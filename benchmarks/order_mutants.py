"""Faults in the code that Inductor emitted, which the check of the order must find.

    python -m benchmarks.order_mutants --out benchmarks/results/mutants.json

Each kind of fault (``tests/verify/order_mutants.py``) is made in the forward and backward code of a
GPT cut into two and three slices, of a sequence-parallel model and of checkpointed blocks. The rows
have the form of ``benchmarks.mutants``; in a file that has other rows, only those of the order are
replaced. The command ends with 1 if a fault is accepted or a harmless change is rejected.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

#: What the names of these kinds begin with.
PREFIX = "order: "


def main() -> int:
    """Make the mutants and write the table."""
    parser = argparse.ArgumentParser(description="Faults in emitted code.")
    parser.add_argument("--each", type=int, default=4, help="mutants of a kind per graph")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    rows, missed = table(chosen.each)
    print(json.dumps(rows, indent=1))
    if chosen.out is not None:
        known = json.loads(chosen.out.read_text()) if chosen.out.exists() else []
        others = [row for row in known if not row["kind"].startswith(PREFIX)]
        chosen.out.write_text(json.dumps([*others, *rows], indent=1) + "\n")
    for text in missed:
        print(text, file=sys.stderr)
    return 1 if missed else 0


def table(each: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows, and the mutants that were judged wrongly.

    Args:
        each: The number of mutants of a kind in a graph.
    """
    from domino_compile.verify.order import check_emitted
    from tests.emitted.harness import compile_step
    from tests.verify.order_mutants import mutants
    from tests.verify.programs import checkpointed, sequence_parallel

    programs = {
        "GPT, two slices": compile_step(2, batch=5, layers=2).checked,
        "GPT, three slices": compile_step(3, batch=7, layers=1).checked,
        "sequence parallel": sequence_parallel(),
        "checkpointed": checkpointed(),
    }
    rows: dict[str, dict[str, Any]] = {}
    missed = []
    for seed, (name, graphs) in enumerate(programs.items()):
        for checked in graphs:
            assert checked.certificate.established, (name, checked.certificate.findings)
            for mutant in mutants(checked.code, each, seed):
                found = check_emitted(mutant.code, checked.promise, checked.names)
                empty = {"kind": mutant.kind, "mutants": 0, "rejected": 0, "accepted_harmless": 0}
                row = rows.setdefault(mutant.kind, empty)
                row["mutants"] += 1
                row["rejected"] += not found.established
                row["accepted_harmless"] += found.established and mutant.harmless
                if found.established != mutant.harmless:
                    missed.append(f"{mutant.kind} in {name}: {found.findings[:1]}")
    return list(rows.values()), missed


if __name__ == "__main__":
    sys.exit(main())
