"""Measure how long our passes take by number of layers, beside the whole compile or by stage.

Usage: ``python -m benchmarks.compile_time [--layers 8 16 32 64] [--device cpu] [--json FILE]``.
Passes and emitted code are checked, as they are by default; the share of the checks in the compile
is printed too. ``--verify off`` leaves them out.

The model is a GPT of Megatron-style blocks on the only running rank of a two-rank group; forward
and backward are compiled with Inductor, caches off. Prints one line per depth.

``--passes-only`` captures and partitions the same training step but compiles and runs nothing: in a
minute or two it shows how the processor time of each stage grows, even on a shared machine.
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
from benchmarks.plan_only import Backend, planned_only, planning_backend
from domino_compile._compat import emitted
from domino_compile.options import Options
from domino_compile.passes import normalise, pin, schedule, slice
from domino_compile.pipeline import decide, emission, pipeline, reporting, runner
from domino_compile.pipeline.contract import Lowering
from domino_compile.pipeline.pipeline import Pipeline
from domino_compile.pipeline.runner import seconds_in_passes
from domino_compile.planner import Planner
from domino_compile.verify.verifier import Verifier
from tests.emitted.harness import SEQ, VOCAB, Model, fake_world

#: The timed stages, with the module and name of the function that each one calls.
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
    ("report", Pipeline, "write"),
    ("lint", fx.Graph, "lint"),
    ("verify", Verifier, "read"),
    ("verify", Verifier, "check"),
)

#: What the checks take: of the passes, of the emitted code, and what the latter needs.
CHECKS: tuple[tuple[Any, str], ...] = (
    (Verifier, "read"),
    (Verifier, "check"),
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
    spent: dict[str, float] = defaultdict(float)
    with planned_only():
        torch.compile(model, backend=_backend(spent))(tokens, tokens)
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


def _backend(spent: dict[str, float]) -> Backend:
    """Return a backend that only plans, and adds the time of each stage to ``spent``."""
    options = Options(guard="off", memory_cap=10, verify="on")

    def timed(run: Callable[[fx.Graph], None], graph: fx.Graph) -> None:
        with _timed_stages(spent), _timed(spent, "all"):
            _with_room(run, graph)

    return planning_backend(options, timed, Lowering(fuses=True))


def _roomy_call() -> Callable[..., Any]:
    """Return a function that calls another one with plenty of room for frames.

    CPython keeps frames in chunks of 16 KiB. A loop whose calls alternate between the end of one
    chunk and the start of the next maps and unmaps memory at every call. Whether that happens
    depends on the depth of the stack only, and if mapping is slow (in virtual machines) it doubles
    the times. A frame with this many variables opens a chunk that all other frames fit into.
    """
    unused = "; ".join(f"unused_{i} = 0" for i in range(9000))
    scope: dict[str, Any] = {}
    exec(f"def call(run, *args):\n if run is None: {unused}\n return run(*args)", scope)
    made: Callable[..., Any] = scope["call"]
    return made


_with_room = _roomy_call()


@contextmanager
def _timed(spent: dict[str, float], stage: str) -> Iterator[None]:
    """Add the processor time without garbage collection, which any stage may trigger."""
    began = time.thread_time() - spent["garbage"]
    try:
        yield
    finally:
        spent[stage] += time.thread_time() - spent["garbage"] - began


@contextmanager
def _timed_stages(spent: dict[str, float]) -> Iterator[None]:
    """Measure the time spent in each function in ``STAGES`` inside this context.

    For nested functions only the outer one is timed.
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
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    fake_world()
    rows = []
    if args.passes_only:
        measure_passes(1, args.device)  # imports and warm-up
        rows = [measure_passes(layers, args.device) for layers in args.layers]
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
