"""Measure on gloo ranks how the compiler treats each framework's collectives.

    python -m benchmarks.frameworks              # all cases whose packages are installed
    python -m benchmarks.frameworks hf_lora ...  # some cases
    python -m benchmarks.frameworks --table      # only rewrite the table in docs/frameworks.md

Each case runs an example from examples/, or tries a combination known not to work. The compiler's
report on rank 0 goes to docs/frameworks.json, and the table is made from that file only. Graphs run
operation by operation (``lowering="eager"``), because cuts do not depend on the lowering.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
import torch.distributed as dist

import domino_compile
from benchmarks.frameworks_cases import CASES, Case
from domino_compile.report import CompileReport
from domino_compile.switch import compile_with_domino
from domino_compile.tools.scripts import Asked, Compiles, compiles_redirected

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "docs" / "frameworks.json", ROOT / "docs" / "frameworks.md"
#: Written by ``benchmarks.frameworks_sizes``.
PREDICTIONS = ROOT / "docs" / "frameworks_sizes.json"
BEGIN, END = "<!-- begin: python -m benchmarks.frameworks --table -->\n", "<!-- end -->"
#: The page shows this many characters of a reason or error; the file has the full text.
WIDEST_REASON = 200
ACTIONS = ("sliced", "merged", "reordered", "left alone")


def measured(case: Case, rank: int, world: int) -> dict[str, Any]:
    """Run a case on a rank; return the compiler's report, or how the program was refused."""
    torch._dynamo.reset()
    domino_compile.reset_reports()
    found = Compiles()
    error = ""
    try:
        with compiles_redirected(found, compiled_eagerly):
            main_of(case)(rank, world)
    except Exception as raised:
        traceback.print_exc(limit=-3)
        said = [line.strip() for line in str(raised).splitlines() if line.strip()]
        said = said[:2]  # the first line of Dynamo's errors is its own
        error = plain(f"{type(raised).__name__}: {' '.join(said)}")[:300]
    return counted(domino_compile.reports(), error)


def compiled_eagerly(asked: Asked, gm: torch.fx.GraphModule, inputs: list[Any]) -> Any:
    """Compile a graph with domino to run operation by operation."""
    if asked.backend != "domino":
        raise ValueError(f"the case compiles with {asked.backend}")
    return compile_with_domino(asked, {"lowering": "eager"}, gm, inputs)


def counted(reports: Iterable[CompileReport], error: str = "") -> dict[str, Any]:
    """Count how the collectives of all graphs were treated, with the reasons for untreated ones."""
    entries = [entry for report in reports for entry in report.collectives]
    actions = Counter(entry.action for entry in entries)
    reasons = sorted({plain(entry.reason) for entry in entries if entry.action in ACTIONS[2:]})
    counts = {action: actions[action] for action in ACTIONS}
    return {
        "captured": len(entries),
        **counts,
        "reasons": [r for r in reasons if r],
        "error": error,
    }


def plain(text: str) -> str:
    """Return the text without addresses and without the folders of packages and this checkout."""
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    return re.sub(rf"({re.escape(str(ROOT))}|[^\s(]*/site-packages)/", "", text)


def main_of(case: Case) -> Callable[[int, int], None]:
    """Return the case's program."""
    sys.path.insert(0, str(ROOT / "examples"))
    module = importlib.import_module(f"benchmarks.{case.module}" if case.module else case.name)
    found = getattr(module, case.name, None) or module.main
    return found  # type: ignore[no-any-return]


def missing(case: Case) -> str:
    """Return why a case cannot run here; empty if it can."""
    if torch.__version__ < case.torch:
        return f"it needs torch {case.torch} or newer, this is {torch.__version__}"
    try:
        versions(case)
    except PackageNotFoundError as absent:
        return f"pip install {absent.name}"
    return ""


def versions(case: Case) -> dict[str, str]:
    """Return the versions of the case's packages; a missing one raises PackageNotFoundError."""
    return {"torch": torch.__version__.split("+")[0], **{p: version(p) for p in case.packages}}


def rank_main(names: list[str], rank: int, world: int) -> None:
    """Measure on this rank; rank 0 writes after every case."""
    for case in CASES:
        if case.name in names and case.ranks == world:
            found = measured(case, rank, world)
            if rank == 0:
                write(case, found)
            dist.barrier()


def write(case: Case, found: dict[str, Any]) -> None:
    """Put one case's result into the file and the table."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[case.name] = {"versions": versions(case), **found}
    order = [known.name for known in CASES if known.name in results]
    RESULTS.write_text(json.dumps({name: results[name] for name in order}, indent=1) + "\n")
    write_table()


def table(results: dict[str, Any], predictions: dict[str, Any]) -> str:
    """Return the table of docs/frameworks.md, with the notes below it.

    Args:
        results: What was measured of each case.
        predictions: What was predicted of each case at real sizes, or why nothing was.
    """
    head = (
        "| Framework | Tensor parallelism | Checkpointing | Data parallel | Pipeline | Captured "
        "| Cut | Merged | Reordered | Left | Predicted | Exposed of wire, ms (Inductor's) "
        "| Versions |"
    )
    rows = [head, "|---|---|---|---|---|" + "---:|" * 7 + "---|"]
    notes = []
    for case in CASES:
        found, foreseen = results[case.name], predictions[case.name]
        cells = [case.framework, case.style]
        cells += [cell or "-" for cell in (case.checkpointing, case.data, case.pipeline)]
        if found["error"]:
            cells += ["refused", "", "", "", "", "", ""]
        else:
            cells += [str(found["captured"]), *(str(found[action]) for action in ACTIONS)]
            cells += predicted_cells(foreseen)
        cells.append(", ".join(f"{name} {number}" for name, number in found["versions"].items()))
        rows.append(f"| {' | '.join(cells)} |")
        said = [*found["reasons"], found["error"]]
        if foreseen["reason"] and not found["error"]:
            said.append(f"no prediction: {foreseen['reason']}")
        notes += [
            f"* {case.described()}: {shorten(text, WIDEST_REASON, placeholder=' ...')}"
            for text in said
            if text
        ]
    return "\n".join([*rows, "", *notes]) + "\n"


def predicted_cells(foreseen: dict[str, Any]) -> list[str]:
    """Return the speed-up and the exposed time of a prediction, as the table shows them."""
    if foreseen["reason"]:
        return ["-", "-"]
    speedup = foreseen["inductor_ms"] / foreseen["predicted_ms"]
    exposed, before = (
        f"{foreseen[f'{who}exposed_ms']:.1f} of {foreseen[f'{who}wire_ms']:.1f}"
        for who in ("", "inductor_")
    )
    return [f"{speedup:.2f}x", f"{exposed} ({before})"]


def write_table() -> None:
    """Write the table of all known cases into the page."""
    results, predictions = (
        json.loads(path.read_text()) if path.exists() else {} for path in (RESULTS, PREDICTIONS)
    )
    if all(case.name in results and case.name in predictions for case in CASES):
        before, _, rest = PAGE.read_text().partition(BEGIN)
        shown = BEGIN + table(results, predictions) + END
        PAGE.write_text(before + shown + rest.partition(END)[2])


def main(arguments: list[str]) -> None:
    """Measure the named cases, or all."""
    if arguments == ["--table"]:
        write_table()
        return
    names = []
    for case in CASES:
        if arguments and case.name not in arguments:
            continue
        if reason := missing(case):
            print(f"{case.name}: left out ({reason})")
        else:
            names.append(case.name)
    sys.path.insert(0, str(ROOT / "examples"))
    launch = importlib.import_module("_launch")
    for ranks in (2, 4):
        if any(case.name in names and case.ranks == ranks for case in CASES):
            launch.run(lambda rank, world: rank_main(names, rank, world), ranks)


if __name__ == "__main__":
    main(sys.argv[1:])
