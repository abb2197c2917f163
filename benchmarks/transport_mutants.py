"""Faults in what the transport carries, which the checks of values and of order must find.

    python -m benchmarks.transport_mutants --out benchmarks/results/mutants.json

Each kind of fault (``tests/verify/transport_mutants.py``) is made wherever it can be: in a graph
with every kind of collective, on ranks of groups of two, three and four, and in the emitted code of
a model with sequence parallelism. The rows have the form of ``benchmarks.mutants``; in a file that
has other rows, only those of the transport are replaced. The command ends with 1 if a fault is
accepted or a harmless change is rejected.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: What the names of these kinds begin with.
PREFIX = "transport: "
#: The ranks whose graphs are changed, each with the size of its group and rows that it can divide.
RANKS = ((2, 0, 8), (2, 1, 8), (3, 1, 9), (4, 2, 8))


def main() -> int:
    """Make the mutants and write the table."""
    parser = argparse.ArgumentParser(description="Faults in what the transport carries.")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    rows: dict[str, dict[str, Any]] = {}
    missed = []
    for kind, is_established, is_harmless in (*_graphs(), *_code()):
        empty = {"kind": kind, "mutants": 0, "rejected": 0, "accepted_harmless": 0}
        row = rows.setdefault(kind, empty)
        row["mutants"] += 1
        row["rejected"] += not is_established
        row["accepted_harmless"] += is_established and is_harmless
        if is_established != is_harmless:
            missed.append(kind)
    print(json.dumps(list(rows.values()), indent=1))
    if chosen.out is not None:
        known = json.loads(chosen.out.read_text()) if chosen.out.exists() else []
        others = [row for row in known if not row["kind"].startswith(PREFIX)]
        chosen.out.write_text(json.dumps([*others, *rows.values()], indent=1) + "\n")
    for kind in missed:
        print(f"judged wrongly: {kind}", file=sys.stderr)
    return 1 if missed else 0


def _graphs() -> Iterator[tuple[str, bool, bool]]:
    """Yield each change of a graph, whether it was accepted, and whether it is harmless."""
    from domino_compile.verify.check import Memory, check
    from domino_compile.verify.part import NotEstablished
    from tests.verify.carried import carried
    from tests.verify.transport_mutants import graph_mutants

    for ranks, rank, size in RANKS:
        before, after, witness = carried(ranks, rank, size)
        for kind, graph, is_harmless in graph_mutants(after):
            try:
                check(before, graph, witness, Memory())
                is_established = True
            except NotEstablished:
                is_established = False
            yield f"{PREFIX}{kind}", is_established, is_harmless


def _code() -> Iterator[tuple[str, bool, bool]]:
    """Yield the same of emitted code."""
    from domino_compile.verify.order import check_emitted
    from tests.transport.carried_model import compile_carried
    from tests.verify.transport_mutants import code_mutants

    for checked in compile_carried().checked:
        for kind, code, is_harmless in code_mutants(checked.code):
            found = check_emitted(code, checked.promise, checked.names)
            yield f"{PREFIX}code: {kind}", found.established, is_harmless


if __name__ == "__main__":
    sys.exit(main())
