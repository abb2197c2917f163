"""Predict what the collectives of each framework cost at real sizes, and how much is hidden.

    python -m benchmarks.frameworks_sizes              # all cases whose packages are installed
    python -m benchmarks.frameworks_sizes fsdp_tp ...  # some cases

The programs of ``benchmarks.frameworks`` are captured with fake tensors and a fake group of eight
ranks, and planned with default options for the H200 and its link table. Nothing is executed, and
no number is measured. The results go to docs/frameworks_sizes.json and into the table.

Sizes are those of Llama 3 8B (4096 wide, 32 heads; 8 heads of keys and an MLP of 14336 where the
framework has its own Llama), 4 rows of 2048 tokens, in bfloat16. There are two layers of its 32,
and as large a share of its vocabulary, so that layers and head keep their proportion.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import sys
import traceback
from pathlib import Path
from typing import Any

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"

from benchmarks.frameworks import PREDICTIONS, missing, plain, versions, write_table
from benchmarks.frameworks_cases import CASES, Case

ROOT = Path(__file__).resolve().parent.parent
#: The machine that is planned for: the device, the link table, and the options besides.
TARGET = {"device": "H200", "link": "h200-nvlink-8"}
OPTIONS = {**TARGET, "lowering": "eager", "check_ranks": False}
TENSOR_PARALLEL = 8


def predicted(case: Case) -> dict[str, Any]:
    """Capture and plan a case; return the predicted times in milliseconds, or why there are none.

    The times of the graphs are added up: graphs that the program runs several times count once.
    """
    import torch

    import domino_compile
    from domino_compile import _compat
    from domino_compile.report.explanation import explanation_of

    torch._dynamo.reset()
    domino_compile.reset_reports()
    programs = importlib.import_module("benchmarks.frameworks_programs")
    if case.name in programs.WITHOUT:
        return {"reason": programs.WITHOUT[case.name]}
    program = getattr(programs, programs.SAME_GRAPHS.get(case.name, case.name), None)
    if program is None:  # that of a case without a prediction
        return {"reason": programs.WITHOUT[programs.SAME_GRAPHS[case.name]]}
    ranks = TENSOR_PARALLEL * (2 if case.ranks == 4 else 1)
    try:
        with (
            domino_compile.fake_ranks(ranks),
            domino_compile.enable(**OPTIONS),
            _compat.backward_at_once(),
        ):
            program(TENSOR_PARALLEL)
    except Exception as error:
        traceback.print_exc(limit=-30)
        return {"reason": plain(f"{type(error).__name__}: {str(error).splitlines()[0]}")[:200]}
    explained = explanation_of(domino_compile.reports())
    times = {name: round(value or 0.0, 2) for name, value in explained.times.as_dict().items()}
    statuses = [row.status for row in explained.rows]
    counts = {status: statuses.count(status) for status in sorted(set(statuses))}
    return {"reason": "", **times, "graphs": len(explained.graphs), "collectives": counts}


def predict_and_write(case: Case) -> None:
    """Put one case's prediction into the file and the table."""
    sys.path.insert(0, str(ROOT / "examples"))
    found = {"versions": versions(case), **predicted(case)}
    results = json.loads(PREDICTIONS.read_text()) if PREDICTIONS.exists() else {}
    results[case.name] = found
    order = [known.name for known in CASES if known.name in results]
    PREDICTIONS.write_text(json.dumps({name: results[name] for name in order}, indent=1) + "\n")
    write_table()
    print(case.name, json.dumps(found), flush=True)


def main(arguments: list[str]) -> None:
    """Predict the named cases, or all, each in a process of its own."""
    for case in CASES:
        if arguments and case.name not in arguments:
            continue
        if reason := missing(case):
            print(f"{case.name}: left out ({reason})")
            continue
        process = multiprocessing.get_context("spawn").Process(
            target=predict_and_write, args=(case,)
        )
        process.start()
        process.join()


if __name__ == "__main__":
    main(sys.argv[1:])
