"""Measure how far the target workloads are from the limit, on one GPU with emulated links.

Usage: ``python -m benchmarks.targets [--out FILE]`` on a machine with one or more GPUs; ``--list``
shows the workloads, ``--only 0,4`` selects some. ``--baseline-path DIR`` also measures the package
in another checkout. ``--device cpu`` is a dry run with small models. ``--render`` writes the table
in BENCHMARKS.md from the published results.

Each workload measures the same as ``domino bench`` with the same arguments (the written objects are
those of its ``--json``), but workloads compile side by side and measure one at a time
(``side_by_side``). A kernel trace of one step of each variant is kept beside the logs.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks import targets_table
from benchmarks.grid_cells import Cell
from benchmarks.lane import BASELINE, Row
from benchmarks.side_by_side import add_common, complete, parse_common, run, select, show
from domino_compile.tools.bench.shapes import shape_of

#: The number of blocks of each model.
LAYERS = 4
#: Models and sizes of a step.
STEPS = (
    ("gpt3-6.7b", 8, 1024),
    ("llama2-7b", 8, 1024),
    ("llama2-7b", 16, 512),
    ("gpt3-13b", 8, 1024),
)
#: Links and how many ranks share a layer.
LINKS = (
    ("h200-nvlink-8", 8),
    ("h100-ib-2x8-model", 16),
    ("h100-ib-4x8-model", 32),
    ("h100-2x8-gcp-a3mega", 16),
)
VARIANTS = "inductor,domino,free"
TITLES = (
    *("workload", "TP, link", "split", "Inductor ms", "domino ms", "speed-up", "of free"),
    *("of bound", "hidden", "exposed ms", "wire ms", "inflation", "peak", "error ratio"),
)


def workloads() -> list[Cell]:
    """Return training on every link, and a prefill."""
    trained = [
        (model, batch, seq, link, tp, True)
        for link, tp in LINKS
        for model, batch, seq in STEPS
        if not shape_of(model).heads % tp  # gpt3-13b has 40
    ]
    forward = [("gpt3-6.7b", 8, 1024, "h200-nvlink-8", 8, False)]
    return [
        Cell(number, model, LAYERS, batch, seq, tp, link, "megatron", training)
        for number, (model, batch, seq, link, tp, training) in enumerate(trained + forward)
    ]


def dry_workloads() -> list[Cell]:
    """Return small workloads for a dry run on the CPU."""
    models = ("tiny-gpt", "tiny-llama")
    return [
        Cell(number, model, 1, 4, 64, 2, "demo-2", "megatron", True, "fp32")
        for number, model in enumerate(models)
    ]


def work(*args: Any, **kwargs: Any) -> None:
    """Call ``targets_worker.work``, for a process that has not loaded torch."""
    from benchmarks import targets_worker

    targets_worker.work(*args, **kwargs)


def line(row: Row) -> str:
    """Return the line to print when a workload is finished."""
    if row.get("error"):
        return f"#{row['number']}: FAILED: {row['error']}"
    return "; ".join(f"{title} {cell}" for title, cell in zip(TITLES, cells_of(row), strict=True))


def cells_of(row: Row) -> list[str]:
    """Return a workload's row of the table."""
    found = {variant["variant"]: variant for variant in row["variants"]}
    alone, ours = found["inductor"], found["domino"]
    what = "" if row["training"] else ", forward"
    what += ", baseline" if row["number"] >= BASELINE else ""
    split = f"{ours['status']}, {ours['slices']} x {ours['columns']}"
    return [
        f"{row['model']}, {row['batch']} x {row['seq']}{what}",
        f"{row['tp']}, {row['link']}",
        split,
        *(_number(run["step_ms"], ".2f") for run in (alone, ours)),
        _number(ours["speedup"], ".3f"),
        _number(ours["fraction_of_free"], ".2f"),
        _number(ours["fraction_of_bound"], ".2f"),
        _number(ours["hidden_fraction"], ".0%"),
        _number(ours["exposed_ms"], ".2f"),
        _number(ours["wire_ms"], ".2f"),
        _number(ours["inflation"], ".2f"),
        _number((ours["peak_mib"] or 0) / (alone["peak_mib"] or 1) or None, ".2f"),
        _number(ours.get("grad_error_ratio"), ".3f"),
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def table(rows: Sequence[Row]) -> list[str]:
    """Return the table of all workloads in Markdown."""
    good = [row for row in rows if not row.get("error")]
    lines = [list(TITLES), ["---"] * len(TITLES), *(cells_of(row) for row in good)]
    failed = [line(row) for row in rows if row.get("error")]
    return [*(f"| {' | '.join(cells)} |" for cells in lines), *failed]


def main() -> int:
    """Measure; return 1 if a workload failed or was left out."""
    asked = parse()
    if asked.render:
        targets_table.publish()
        return 0
    chosen, kept = select(asked, workloads() if asked.device == "cuda" else dry_workloads())
    if asked.list:
        show(chosen)
        return 0
    target = partial(work, variants=asked.variants, rounds=asked.rounds)
    programs = len(asked.variants.split(","))
    rows = run(asked, chosen, kept, target, line, programs, judged=True, measure_limit_s=60.0)
    print("\n".join(table(rows)))
    return 0 if complete(rows, chosen) else 1


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    add_common(parser)
    parser.add_argument("--variants", default=VARIANTS, help="as of domino bench")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--render", action="store_true", help="write BENCHMARKS.md's table")
    return parse_common(parser, "targets.json")


if __name__ == "__main__":
    sys.exit(main())
