"""Compare the cost model's predictions with steps that were measured on one H200.

Usage: ``python -m benchmarks.predict``; needs no GPU. The model of ``benchmarks/gpu_step.py`` is
captured on the CPU and planned with the H200's rates and its link table, as one of eight ranks; the
measured times come from ``benchmarks/results/gpu_step-h200.json``.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"

import torch

import domino_compile
from benchmarks.gpu_step import Model
from benchmarks.plan_only import planned_only, planning_backend
from domino_compile.options import Options
from domino_compile.pipeline.contract import Lowering
from domino_compile.report import CompileReport
from tests.emitted.harness import fake_world

RESULTS = Path(__file__).parent / "results" / "gpu_step-h200.json"
#: The schedule's kinds of steps, and their names in a kernel trace.
KINDS = (
    (("matmul",), ("gemm",)),
    (("attention",), ("attention",)),
    (("fused", "kernel"), ("triton", "other")),
)
#: The link of the communication-free runs: collectives take almost no time and hold no blocks.
FREE = {
    "schema": 1,
    "name": "free",
    "ranks": 8,
    "nodes": 1,
    "source": "made up: a collective takes no time",
    "made_up": True,
    "ctas": 1,
    "collectives": {"all_reduce": {"latency_us": 0.001, "algbw_gb_s": 1e9}},
}


def planned(batch: int, seq: int, layers: int, **options: Any) -> CompileReport:
    """Return the report of one training step, captured and planned."""
    torch._dynamo.reset()
    domino_compile.reset_reports()
    chosen = Options(device="H200", **options)
    with torch.device("meta"):
        model = Model(4096, 32, 8, layers).to(torch.bfloat16)
    model = model.to_empty(device="cpu")
    x = torch.empty(batch, seq, 4096, dtype=torch.bfloat16)

    backend = planning_backend(chosen, lambda run, graph: run(graph), Lowering(fuses=True))
    with planned_only():
        torch.compile(model, backend=backend)(x)
    (report,) = domino_compile.reports()
    return report


def main() -> None:
    """Predict the steps and print the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq", type=int, default=1024)
    args = parser.parse_args()
    fake_world(8)
    measured = json.loads(RESULTS.read_text())
    folder = Path(tempfile.mkdtemp())
    (folder / "free.json").write_text(json.dumps(FREE))
    for link, found in (("h200-nvlink-8", measured), (str(folder / "free.json"), measured["free"])):
        report = planned(args.batch, args.seq, args.layers, slices=2, link=link)
        name = "free link" if link.endswith(".json") else link
        assert report.uncut is not None
        _show(f"Inductor, {name}", report.uncut.predicted_us, found["step_ms"]["inductor"][1])
        times = [schedule.predicted_us for schedule in report.schedules]
        _show(f"2 slices, {name}", sum(times), found["step_ms"]["domino"][1])
        trace = found["trace"]["domino"]
        wires = [wire.wire_us for schedule in report.schedules for wire in schedule.wires]
        _show("  on the wire", sum(wires), trace["wire_union"])
        _show("  exposed", sum(s.exposed_us for s in report.schedules), trace.get("exposed", 0.0))
        for kinds, names in KINDS:
            steps = [x for s in report.schedules for x in s.steps if x.kind in kinds]
            time = sum(x.end_us - x.start_us for x in steps)
            _show(f"  {names[0]}", time, sum(trace[name] for name in names))


def _show(what: str, predicted_us: float, measured_ms: float) -> None:
    predicted_ms = predicted_us / 1e3
    off = f"{predicted_ms / measured_ms - 1:+.1%}" if measured_ms else ""
    print(f"{what:32} {predicted_ms:8.2f} ms  measured {measured_ms:8.2f} ms  {off}")


if __name__ == "__main__":
    main()
