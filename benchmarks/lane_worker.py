"""A process of a lane: it compiles one configuration, waits, and then measures it.

This module serves ``benchmarks.grid``; ``targets_worker`` does the same with other variants.

It sends these messages to the process that started it::

    ("compiled", seconds)   then waits for an answer; it runs nothing on the GPU meanwhile
    ("measured", row)       then waits to be ended: a process that exits disturbs measurements
    ("failed", why)         then exits at once

It is forked from a server that has loaded everything but not touched the GPU (``multiprocessing``'s
``forkserver``), so it starts at once and shares nothing with earlier configurations.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import domino_compile
from benchmarks.grid_cells import Cell
from benchmarks.lane import Row, Settings
from domino_compile import _compat, emulate
from domino_compile.errors import first_line
from domino_compile.host.launch import end_at_once
from domino_compile.links import load_link
from domino_compile.report import CandidateReport, CompileReport
from domino_compile.report.times import together
from domino_compile.tools.bench.result import BenchResult
from domino_compile.tools.bench.run import Bench, Plan, Runner
from domino_compile.tools.bench.variants import Variant
from domino_compile.tools.bench.workload import Workload
from domino_compile.tools.bench.world import Place, World, open_world

# Modules that a first compile loads: the server loads them once, so that no process has to.
for _name in ("compile_fx", "lowering", "codegen.triton", "runtime.triton_heuristics"):
    with contextlib.suppress(ImportError):
        importlib.import_module(f"torch._inductor.{_name}")

#: The fewest and most rounds of a measurement, and the steps of a round.
ROUNDS, STEPS = (10, 40), 3
#: The approximate highest clock of the device, to compute how long it pauses for the host.
CYCLES_A_MS = 2_000_000


class Ahead:
    """A runner whose first step is issued after a pause of the device.

    The host is then ahead of the device when timing begins, and steps that the device finishes
    faster than the host can issue them are timed as in a longer program.
    """

    def __init__(self, runner: Runner, pause_ms: float) -> None:
        self._runner, self._cycles = runner, int(pause_ms * CYCLES_A_MS)

    def __call__(self) -> None:
        """Run one step."""
        cycles, self._cycles = self._cycles, 0
        if cycles:
            torch.cuda._sleep(cycles)
        self._runner()


class CellBench(Bench):
    """A bench whose host is ahead of the device whenever timing begins."""

    #: How long the device pauses while the host gets ahead.
    pause_ms = 0.0

    def prepare(self) -> BenchResult:
        """Compile and warm up the variants.

        Raises:
            RuntimeError: one that must not fail has failed.
        """
        result = self.empty("")
        self.runners = self.compile(result)
        for found in result.variants:
            if found.error and self.must_work(found.variant):
                raise RuntimeError(f"{found.variant}: {found.error}")
        return result

    def must_work(self, variant: str) -> bool:
        """Return whether there is no result without a variant."""
        del variant
        return True

    def time_for(self, seconds: float) -> None:
        """Time the variants in turn for about this long."""
        if self.on_gpu:
            for runner in self.runners:
                runner.result.host_ms = self._host_ms(runner)
            slowest = max(runner.result.host_ms or 0.0 for runner in self.runners)
            self.pause_ms = 1.5 * (self.plan.steps + 1) * slowest
        began = time.perf_counter()
        for runner in self.runners:
            self._timed(runner)
        took = time.perf_counter() - began
        low, high = ROUNDS
        self.plan = replace(self.plan, rounds=min(high, max(low, int(seconds / took) - 1)))
        self._time(self.runners)

    def account(self, result: BenchResult, rounds: int, traces: Path) -> None:
        """Measure everything that ``domino bench`` measures, and one kernel trace per variant."""
        self.plan = replace(self.plan, rounds=rounds, traces=traces)
        result.rounds = rounds
        self.measure(result, self.runners)

    def _timed(self, runner: Any) -> float:
        if not self.on_gpu:
            return super()._timed(runner)
        return super()._timed(Ahead(runner, self.pause_ms))  # type: ignore[arg-type]


def work(cell: Cell, settings: Settings, gpu: str, pipe: Connection) -> None:
    """Run the whole life of a process of the grid.

    Args:
        cell: the configuration.
        settings: the settings of the whole grid.
        gpu: the GPU to use, as in ``CUDA_VISIBLE_DEVICES``; empty on the CPU.
        pipe: to the process that started this one.
    """
    variants = [Variant("inductor"), Variant("domino", settings.slices)]

    def measure(bench: CellBench, result: BenchResult) -> Row:
        bench.time_for(settings.measure_s)
        return _row(cell, settings, result) | {"rounds": bench.plan.rounds}

    live(cell, settings, gpu, pipe, variants, measure)


def live(
    cell: Cell,
    settings: Settings,
    gpu: str,
    pipe: Connection,
    variants: Sequence[Variant],
    measure: Callable[[CellBench, BenchResult], Row],
    kind: type[CellBench] = CellBench,
    place: Place | None = None,
) -> None:
    """Run the whole life of a process, which ends in this function.

    Args:
        cell: the configuration.
        settings: the settings of all configurations.
        gpu: the GPU to use, as in ``CUDA_VISIBLE_DEVICES``; empty on the CPU.
        pipe: to the process that started this one.
        variants: the variants of the configuration to compile.
        measure: makes the configuration's row, while nobody else uses the GPU.
        kind: the class of the bench.
        place: this rank's place among real ranks; ``None`` acts as one rank of an emulated link.
    """
    rank = 0 if place is None else place.rank or 0
    _log_to(settings.log_of(cell, rank))
    faulthandler.enable()
    faulthandler.dump_traceback_later(max(1.0, settings.limit_s - 5), exit=False)
    if gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    torch.set_num_threads(settings.threads)
    try:
        with _open(cell, settings) if place is None else open_world(place, cell.tp) as world:
            link = settings.planned_link if place is not None else cell.link
            plan = Plan(
                variants,
                steps=STEPS,
                link=(link or None) if settings.link_known else None,
                float64=settings.judged,
                kernels=settings.device == "cuda",
            )
            bench = kind(
                workload(cell), plan, world, lambda text, share: print(f"{share:4.0%} {text}")
            )
            _serve(bench, pipe, measure)
    except Exception as error:
        import traceback

        traceback.print_exc()
        _say(pipe, ("failed", f"{type(error).__name__}: {first_line(error)}"))
    finally:
        end_at_once(0)


def workload(cell: Cell) -> Workload:
    """Return the bench's workload for a configuration."""
    return Workload(
        model=cell.model,
        layers=cell.layers,
        batch=cell.batch,
        seq=cell.seq,
        tp=cell.tp,
        style=cell.style,
        training=cell.training,
        dropout=cell.dropout,
        dtype=cell.dtype,
        ac=cell.ac,
        granularity=cell.granularity,
    )


def _serve(
    bench: CellBench, pipe: Connection, measure: Callable[[CellBench, BenchResult], Row]
) -> None:
    began = time.perf_counter()
    result = bench.prepare()
    if bench.on_gpu:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    compile_s = time.perf_counter() - began
    faulthandler.cancel_dump_traceback_later()
    pipe.send(("compiled", compile_s))
    bench.world.first_rank_only(pipe.recv)  # until it says "measure"
    row = measure(bench, result)
    pipe.send(("measured", row | {"compile_s": round(compile_s, 1)}))
    pipe.recv()  # blocks until this process is ended


def _log_to(path: Path) -> None:
    """Send this process's output to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as log:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def _say(pipe: Connection, message: tuple[str, Any]) -> None:
    try:
        pipe.send(message)
    except OSError:
        print("nobody listens:", message)


def _open(cell: Cell, settings: Settings) -> AbstractContextManager[World]:
    if settings.device == "cuda":
        return open_world(Place("cuda", cell.link), cell.tp)
    return _fake_world(cell)


@contextmanager
def _fake_world(cell: Cell) -> Iterator[World]:
    """Make a group with only this rank and no time on the wire, for a dry run on the CPU."""
    if hasattr(emulate, "init_lone_rank"):
        emulate.init_lone_rank(cell.tp)
    else:  # another checkout's package
        _compat.start_fake_group(cell.tp)
    group = dist.group.WORLD
    assert group is not None
    table = load_link(cell.link).scaled_to(cell.tp)
    yield World(Place("cpu", cell.link), cell.tp, 0, group, group, table)


# -- results ---------------------------------------------------------------------------------------


def _row(cell: Cell, settings: Settings, result: BenchResult) -> dict[str, Any]:
    alone, ours = result.variants
    assert alone.step_ms is not None and ours.step_ms is not None
    row: dict[str, Any] = {
        **asdict(cell),
        "emulated": True,
        "inductor_ms": alone.step_ms,
        "domino_ms": ours.step_ms,
        "ratio": ours.step_ms / alone.step_ms,
        "spread": {"inductor": alone.spread_ms, "domino": ours.spread_ms},
        **planned(domino_compile.reports()),
        "peak_mib": {"inductor": alone.peak_mib, "domino": ours.peak_mib},
        "predicted_peak_mib": getattr(ours, "predicted_peak_mib", None),
        "host_ms": {"inductor": alone.host_ms, "domino": ours.host_ms},
        "grad_error": ours.grad_error,
        "link_known": settings.link_known,
        "slices_asked": settings.slices,
        "cuda_graphs": result.cuda_graphs,
        "device": result.device,
        "torch": result.torch,
    }
    if settings.device == "cuda":
        row["reserved_mib"] = torch.cuda.max_memory_reserved() / 2**20
    else:
        row["dry_run"] = True
    return rounded(row)


def planned(reports: list[CompileReport]) -> dict[str, Any]:
    """Return what the plan did, and its predicted times.

    Args:
        reports: the reports of all graphs; those without collectives do not count.
    """
    graphs = [report for report in reports if report.collectives]
    chosen = [next((c for c in report.candidates if c.chosen), None) for report in graphs]
    known = bool(graphs) and all(chosen)
    whole: list[CandidateReport] = [c for c in chosen if c is not None]
    found = [report.times for report in graphs if report.times is not None]
    times = together(found) if known and len(found) == len(graphs) else None
    return {
        "choice": "; ".join(c.name for c in whole) if known else "unknown",
        "split": "; ".join(c.split for c in whole) if known else "unknown",
        "status": "; ".join(report.status for report in graphs),
        "reason": "; ".join(report.reason for report in graphs if report.reason),
        "predicted_ms": times.planned.step_us / 1e3 if times else None,
        "predicted_inductor_ms": times.inductor.step_us / 1e3 if times else None,
        "predicted_exposed_ms": times.planned.exposed_us / 1e3 if times else None,
    }


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(member) for member in value]
    return value


def probe(pipe: Connection) -> None:
    """Send the name and GiB of each GPU.

    A forked process cannot use a GPU that its parent has used: then it reports a failure.
    """
    try:
        torch.cuda.init()
        torch.zeros(1, device="cuda")
        properties = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
        pipe.send(("gpus", [(found.name, found.total_memory / 2**30) for found in properties]))
    except Exception as error:
        pipe.send(("failed", f"{type(error).__name__}: {first_line(error)}"))
