"""Compare today's predictions with configurations that ``benchmarks.grid`` measured.

Usage: ``python -m benchmarks.grid_replan [benchmarks/results/grid.json] [--device A100]``; needs no
GPU. Each configuration's step is captured on the CPU and planned with the rates of the device that
it was measured on, or of ``--device``; the measured times come from the file. Prints how far off
the predictions are, and which configurations would get another candidate today than the measured
one: these have to be measured again (``python -m benchmarks.grid --only ...``). ``--out FILE``
writes the rows with today's predictions for the measured candidates, and today's choice as
``choice_now``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.grid_cells import Cell, cells
from benchmarks.grid_summary import Row, name, summary

RESULTS = Path(__file__).parent / "results" / "grid.json"


def replan(cell: Cell, measured: str, device: str) -> Row:
    """Return today's predictions for a configuration, keyed like its row.

    Args:
        cell: the configuration.
        measured: the measured candidate, whose prediction is returned.
        device: a name in ``cost.rates.device_names``.
    """
    import torch
    import torch.distributed as dist
    from torch import fx

    import domino_compile
    from benchmarks.plan_only import PlannedOnly, planned_only, planning_backend
    from domino_compile import _compat, emulate
    from domino_compile.options import Options
    from domino_compile.pipeline.contract import Lowering
    from domino_compile.tools.bench.workload import Step, Workload

    torch.set_num_threads(1)
    torch._dynamo.reset()
    domino_compile.reset_reports()
    if dist.is_initialized():
        dist.destroy_process_group()
    _compat.start_fake_group(cell.tp)
    emulate.use_link(cell.link)
    options = Options(link=cell.link, device=device)

    def only(run: Callable[[fx.Graph], None], graph: fx.Graph) -> None:
        run(graph)
        raise PlannedOnly  # the choice is made on the first graph: forward and backward together

    backend = planning_backend(options, only, Lowering(fuses=True, products=True))
    workload = Workload(
        *(cell.model, cell.layers, cell.batch, cell.seq, cell.tp, cell.style, cell.training),
        dropout=cell.dropout,
        dtype=cell.dtype,
    )
    assert dist.group.WORLD is not None
    step = Step(workload, dist.group.WORLD, "cpu", lambda f: torch.compile(f, backend=backend))
    with planned_only():
        step()
    return _predictions(domino_compile.reports(), measured)


#: What results from before 2026-11-30 call these choices.
RENAMED = {"uncut, reordered": "reordered, not cut", "uncut": "Inductor alone"}


def _predictions(reports: Sequence[Any], measured: str) -> Row:
    measured = RENAMED.get(measured, measured)
    graphs = [report for report in reports if report.candidates]
    chosen = [next(c for c in report.candidates if c.chosen) for report in graphs]
    same = [next((c for c in r.candidates if c.name == measured), None) for r in graphs]
    known = bool(graphs) and all(same)
    return {
        "choice_now": "; ".join(c.name for c in chosen),
        "predicted_ms": sum(c.predicted_us for c in same if c) / 1e3 if known else None,
        "predicted_inductor_ms": sum(r.candidates[0].predicted_us for r in graphs) / 1e3,
    }


def device_of(row: Row) -> str:
    """Return the device that a row was measured on, as in ``cost.rates.device_names``.

    Raises:
        SystemExit: there are no rates for it.
    """
    from domino_compile.cost.rates import device_names, rates_named

    known = rates_named(row["device"])
    if known is None:
        names = ", ".join(device_names())
        raise SystemExit(f"no rates for {row['device']!r}: name a --device out of {names}")
    return known.name


def _replanned(task: tuple[Cell, str, str]) -> Row:
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    found = replan(*task)
    print(task[0], found, flush=True)
    return found


def main() -> None:
    """Plan the configurations and compare."""
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS)
    parser.add_argument("--device", help="plan with its rates, not those of the row's device")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    rows = [row for row in json.loads(asked.results.read_text()) if not row.get("error")]
    table = {cell.number: cell for cell in cells()}
    tasks = [(table[row["number"]], row["choice"], asked.device or device_of(row)) for row in rows]
    with ProcessPoolExecutor(asked.jobs, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(_replanned, tasks))
    new = [row | today for row, today in zip(rows, found, strict=True)]
    print("\n".join(summary(new)))
    for row in new:
        if row["choice"] != row["choice_now"]:
            print(f"chosen otherwise: {name(row)}: {row['choice']} -> {row['choice_now']}")
    if asked.out:
        asked.out.write_text(json.dumps(new, indent=1) + "\n")


if __name__ == "__main__":
    main()
