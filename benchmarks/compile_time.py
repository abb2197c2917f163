"""Measure how long our passes take by number of layers, beside the whole compile or by stage.

Usage: ``python -m benchmarks.compile_time [--layers 8 16 32 64] [--device cpu] [--json FILE]``.
Passes and emitted code are checked, as they are by default; the share of the checks in the compile
is printed too. ``--verify off`` leaves them out.

The model is a GPT of Megatron-style blocks on the only running rank of a two-rank group; forward
and backward are compiled with Inductor, caches off. Prints one line per depth.

``--passes-only`` captures and partitions the same training step but compiles and runs nothing: in a
minute or two it shows how the processor time of each stage grows, even on a shared machine.
``--job N`` does that with job N of ``benchmarks.jobs``, for an H200, with any number of layers.
"""

import argparse
import gc
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"

import torch

import domino_compile
from benchmarks.job_cells import JobCell, jobs
from benchmarks.job_plan import plan
from benchmarks.plan_only import planned_only, planning_backend
from benchmarks.stages import Stages
from domino_compile._compat import emitted
from domino_compile.options import Options
from domino_compile.pipeline import emission
from domino_compile.pipeline.contract import Lowering
from domino_compile.pipeline.runner import seconds_in_passes
from domino_compile.verify import verifier
from tests.emitted.harness import SEQ, VOCAB, Model, fake_world

#: What the checks take: of the passes, of the emitted code, and what the latter needs.
CHECKS: tuple[tuple[Any, str], ...] = (
    (verifier, "read_graph"),
    (verifier, "check"),
    (emission, "promise_of"),
    (emission, "check_emitted"),
    (emitted, "_emitted"),
    (emitted, "copy_of"),
)


def measure(layers: int, device: str, lowering: str, verify: str) -> dict[str, float]:
    """Compile one training step; return the seconds in total, in our passes and in the checks."""
    model, tokens = _program(layers, device)
    before, began = seconds_in_passes(), time.perf_counter()
    options: dict[str, Any] = {"lowering": lowering, "guard": "off", "memory_cap": 10}
    options["verify"] = verify
    with checks_timed() as checks:
        program = torch.compile(model, backend="domino", options=options)
        program(tokens, tokens).backward()
    total = time.perf_counter() - began
    ours = seconds_in_passes() - before
    (report,) = domino_compile.reports()
    assert report.status == "sliced", report.summary()
    row = {"layers": layers, "total_s": total, "passes_s": ours, "share": ours / total}
    return {**row, "verify_s": sum(checks), "verify_share": sum(checks) / total}


@contextmanager
def checks_timed() -> Iterator[list[float]]:
    """Yield a list that gets the seconds of each call of the functions in ``CHECKS``."""
    seconds: list[float] = []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds.append(time.perf_counter() - began)

        return call

    with ExitStack() as stack:
        for owner, name in CHECKS:
            stack.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name))))
        yield seconds


def measure_passes(layers: int, device: str) -> dict[str, float]:
    """Capture one training step and run our passes; return processor milliseconds by stage."""
    model, tokens = _program(layers, device)
    stages, options = Stages(), Options(guard="off", memory_cap=10, verify="on")
    backend = planning_backend(options, stages.around, Lowering(fuses=True))
    with planned_only():
        torch.compile(model, backend=backend)(tokens, tokens)
    (report,) = domino_compile.reports()
    assert report.status == "sliced" and len(report.schedules) == 2, report.summary()
    return {"layers": layers, **stages.milliseconds()}


def measure_job(layers: int, cell: JobCell) -> dict[str, float]:
    """Do the same with a job that is captured with fake tensors and planned for an H200."""
    gc.collect()
    stages = Stages()
    report = plan(replace(cell, layers=layers), cell.link, stages.around)
    assert report.status != "failed", report.summary()
    print(f"{layers} layers: {report.summary()}", flush=True)
    return {"layers": layers, **stages.milliseconds()}


def _program(layers: int, device: str) -> tuple[Model, torch.Tensor]:
    torch._dynamo.reset()
    domino_compile.reset_reports()
    gc.collect()
    model = Model(layers, dropout=0.1).to(device)
    return model, torch.randint(0, VOCAB, (4, SEQ), device=device)


def _print_compile(row: dict[str, float]) -> None:
    print(
        f"{row['layers']:3d} layers: compile {row['total_s']:7.2f} s,"
        f" our passes {row['passes_s']:6.2f} s"
        f" ({row['share']:.1%}, {1e3 * row['passes_s'] / row['layers']:.1f} ms a layer),"
        f" checks {row['verify_s']:6.2f} s ({row['verify_share']:.1%})",
        flush=True,
    )


def _print_stages(rows: list[dict[str, float]]) -> None:
    print("ms a layer  " + "".join(f"{row['layers']:>9d}" for row in rows))
    for stage in [key for key in rows[0] if key != "layers"]:
        cells = (f"{row[stage] / row['layers']:9.2f}" for row in rows)
        print(f"{stage:<12}{''.join(cells)}")


def main() -> None:
    """Measure and print the times."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lowering", default="inductor", choices=("inductor", "eager"))
    parser.add_argument("--verify", default="on", choices=("off", "on"), help="check the compile")
    parser.add_argument("--passes-only", action="store_true", help="processor time by stage")
    parser.add_argument("--job", type=int, help="the passes only, on this job of benchmarks.jobs")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.job is None:
        fake_world()
    rows = []
    if args.passes_only or args.job is not None:
        stages_of = partial(measure_passes, device=args.device)
        if args.job is not None:
            stages_of = partial(measure_job, cell=jobs()[args.job])
        stages_of(1)  # imports and warm-up
        rows = [stages_of(layers) for layers in args.layers]
        _print_stages(rows)
    else:
        measure(1, args.device, args.lowering, args.verify)
        for layers in args.layers:
            rows.append(measure(layers, args.device, args.lowering, args.verify))
            _print_compile(rows[-1])
    if args.json:
        args.json.write_text(
            json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
