"""How long our passes take, by the number of layers: against the whole compile, or by stage.

Usage: ``python -m benchmarks.compile_time [--layers 8 16 32 64] [--device cpu] [--json FILE]``.

A GPT of Megatron-style blocks on a lone rank of a two-rank group; forward and backward are compiled
with Inductor, caches off. Prints one line a depth.

``--passes-only`` captures and partitions the same training step but compiles and runs nothing: it
tells how the processor time of each stage grows in a minute or two, also on a machine that is
shared.
"""

import argparse
import gc
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"

import torch
from torch import fx

import domino_compile
from benchmarks.plan_only import plan_only, planned_only
from domino_compile.options import Options
from domino_compile.passes import normalise, pin, schedule, slice
from domino_compile.pipeline import decide, pipeline, reporting, runner
from domino_compile.pipeline.contract import Lowering
from domino_compile.pipeline.hints import hints_of
from domino_compile.pipeline.pipeline import Pipeline
from domino_compile.pipeline.runner import seconds_in_passes
from domino_compile.planner import Planner
from domino_compile.report import new_report
from tests.emitted.harness import SEQ, VOCAB, Model, fake_world

#: What is timed: the stage, and where the function is found that it calls.
STAGES: tuple[tuple[str, Any, str], ...] = (
    ("find", pipeline, "find_collectives"),
    ("backup", runner, "Backup"),
    ("normalise", normalise, "normalise_graph"),
    ("infer", decide, "infer_cut"),
    ("plan", Planner, "run"),
    ("slice", slice, "slice_graph"),
    ("schedule", schedule, "schedule_graph"),
    ("pin", pin, "pin_order"),
    ("report", reporting, "decided"),
    ("report", pipeline, "schedule"),
    ("report", Pipeline, "_write"),
    ("lint", fx.Graph, "lint"),
)


def measure(layers: int, device: str, lowering: str) -> dict[str, float]:
    """Compile one training step; returns seconds in all and in our passes."""
    model, tokens = _program(layers, device)
    before, began = seconds_in_passes(), time.perf_counter()
    options: dict[str, Any] = {"lowering": lowering, "guard": "off", "memory_cap": 10}
    program = torch.compile(model, backend="domino", options=options)
    program(tokens, tokens).backward()
    total = time.perf_counter() - began
    ours = seconds_in_passes() - before
    (report,) = domino_compile.reports()
    assert report.status == "sliced", report.summary()
    return {"layers": layers, "total_s": total, "passes_s": ours, "share": ours / total}


def measure_passes(layers: int, device: str) -> dict[str, float]:
    """Capture one training step and run our passes; returns processor milliseconds by stage."""
    model, tokens = _program(layers, device)
    spent: dict[str, float] = defaultdict(float)
    with planned_only():
        torch.compile(model, backend=lambda gm, inputs: _rewrite(gm, inputs, spent))(tokens, tokens)
    (report,) = domino_compile.reports()
    assert report.status == "sliced" and len(report.schedules) == 2, report.summary()
    stages = {stage: 1e3 * spent[stage] for stage in dict.fromkeys(s for s, _, _ in STAGES)}
    stages["other"] = 1e3 * spent["all"] - sum(stages.values())
    stages["garbage"] = 1e3 * spent["garbage"]
    return {"layers": layers, **stages, "all": sum(stages.values())}


def _program(layers: int, device: str) -> tuple[Model, torch.Tensor]:
    torch._dynamo.reset()
    domino_compile.reset_reports()
    gc.collect()
    model = Model(layers, dropout=0.1).to(device)
    return model, torch.randint(0, VOCAB, (4, SEQ), device=device)


def _rewrite(gm: fx.GraphModule, inputs: list[Any], spent: dict[str, float]) -> Callable[..., Any]:
    """Capture and plan, with the time of each stage."""
    options = Options(guard="off", memory_cap=10)

    def timed(run: Callable[[fx.Graph], None], graph: fx.Graph) -> None:
        with _timed_stages(spent), _timed(spent, "all"):
            _with_room(run, graph)

    passes = Pipeline(
        new_report(options.describe()), options, hints_of(gm, inputs, options), Lowering(fuses=True)
    )
    return plan_only(passes, gm, inputs, timed)


def _roomy_call() -> Callable[..., Any]:
    """A function that calls another one with much room left for frames.

    CPython keeps frames in chunks of 16 KiB. A loop whose calls go back and forth between the end
    of one and the start of the next maps and unmaps memory at every call. Where that happens
    depends on nothing but the depth of the stack, and where mapping is slow (in virtual machines)
    it doubles the times. A frame of this many variables opens a chunk that all others fit into.
    """
    unused = "; ".join(f"unused_{i} = 0" for i in range(9000))
    scope: dict[str, Any] = {}
    exec(f"def call(run, *args):\n if run is None: {unused}\n return run(*args)", scope)
    made: Callable[..., Any] = scope["call"]
    return made


_with_room = _roomy_call()


@contextmanager
def _timed(spent: dict[str, float], stage: str) -> Iterator[None]:
    """Note the processor time, without that of the garbage collector: any stage may trigger it."""
    began = time.thread_time() - spent["garbage"]
    try:
        yield
    finally:
        spent[stage] += time.thread_time() - spent["garbage"] - began


@contextmanager
def _timed_stages(spent: dict[str, float]) -> Iterator[None]:
    """While this lasts, note the time spent in each of the functions in ``STAGES``.

    Of one inside another the outer is timed.
    """
    inside: list[str] = []

    def collecting(phase: str, _info: dict[str, int]) -> None:
        spent["garbage"] += (-1 if phase == "start" else 1) * time.thread_time()

    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if inside:
                return function(*args, **kwargs)
            inside.append(stage)
            try:
                with _timed(spent, stage):
                    return function(*args, **kwargs)
            finally:
                inside.pop()

        return call

    with ExitStack() as stack:
        for stage, owner, name in STAGES:
            replacement = timed(stage, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, replacement))
        gc.callbacks.append(collecting)
        stack.callback(gc.callbacks.remove, collecting)
        yield


def _print_compile(row: dict[str, float]) -> None:
    print(
        f"{row['layers']:3d} layers: compile {row['total_s']:7.2f} s,"
        f" our passes {row['passes_s']:6.2f} s"
        f" ({row['share']:.1%}, {1e3 * row['passes_s'] / row['layers']:.1f} ms a layer)",
        flush=True,
    )


def _print_stages(rows: list[dict[str, float]]) -> None:
    print("ms a layer  " + "".join(f"{row['layers']:>9d}" for row in rows))
    for stage in [key for key in rows[0] if key != "layers"]:
        cells = (f"{row[stage] / row['layers']:9.2f}" for row in rows)
        print(f"{stage:<12}{''.join(cells)}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lowering", default="inductor", choices=("inductor", "eager"))
    parser.add_argument("--passes-only", action="store_true", help="processor time by stage")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    fake_world()
    rows = []
    if args.passes_only:
        measure_passes(1, args.device)  # imports and warm-up
        rows = [measure_passes(layers, args.device) for layers in args.layers]
        _print_stages(rows)
    else:
        measure(1, args.device, args.lowering)
        for layers in args.layers:
            rows.append(measure(layers, args.device, args.lowering))
            _print_compile(rows[-1])
    if args.json:
        args.json.write_text(
            json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
