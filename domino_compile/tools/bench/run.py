"""Compiles the variants of a step, runs them alternately, and accounts for their time."""

from __future__ import annotations

import gc
import random
import statistics
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

import domino_compile
from domino_compile import _compat, emulate
from domino_compile.errors import first_line
from domino_compile.host.launch import RanksError
from domino_compile.host.turns import Turn
from domino_compile.runtime.guard import TURNS
from domino_compile.tools.bench.gradients import Error, compare, errors, worst
from domino_compile.tools.bench.kernels import Account, record
from domino_compile.tools.bench.recording import recorded
from domino_compile.tools.bench.reference import exact_results
from domino_compile.tools.bench.result import BenchResult, VariantResult
from domino_compile.tools.bench.variants import Variant
from domino_compile.tools.bench.workload import Step, Workload
from domino_compile.tools.bench.world import Place, World, open_world
from domino_compile.tools.quartiles import middle_half

#: Called with a line of text about the current work, and the share of the work done (0 to 1).
Progress = Callable[[str, float], None]
#: Steps before measuring starts; CUDA graphs are recorded in the second and third.
WARM_UP = 4
#: The default number of steps whose kernels are traced.
TRACED = 5


@dataclass(frozen=True)
class Plan:
    """The variants to measure, and how to measure them.

    Attributes:
        variants: The variants, in the order of the table.
        rounds: The number of measured rounds; every variant runs once in each.
        steps: The steps of a variant in a round, which are timed together.
        cuda_graphs: Whether to record the steps as CUDA graphs (GPU).
        float64: Whether to compare with float64, without dropout.
        traced: The number of steps of each variant whose kernels are traced (GPU).
        kernels: Whether Inductor generates kernels; otherwise operators run one by one (a dry run).
        traces: The folder for the profiler's traces of every rank, if they are kept (GPU).
        link: The name or file of the link table that this package plans with; ``None`` uses the
            device's default.
        turn: A file that lets simultaneous benchmarks on one machine take turns: all compile side
            by side, then one measures while the others wait.
    """

    variants: Sequence[Variant]
    rounds: int = 20
    steps: int = 3
    cuda_graphs: bool = True
    float64: bool = False
    traced: int = TRACED
    kernels: bool = True
    traces: Path | None = None
    link: str | None = None
    turn: Path | None = None


def run(
    workload: Workload, plan: Plan, place: Place, command: str, progress: Progress
) -> BenchResult:
    """Measure the variants. Every rank gets a result with the times of the slowest rank.

    Raises:
        BenchError: Something cannot be done here.
        LinkError: The link is unknown or malformed.
        RanksError: A variant failed on this rank, but not on all ranks.
    """
    # Compiling without caches, so that compile times are right, is what torch warns of here.
    warnings.filterwarnings("ignore", "dynamo_pgo force disabled")
    with _turn(plan) as turn, open_world(place, workload.tp) as world:
        bench = Bench(workload, plan, world, progress)
        result = bench.empty(command)
        runners = bench.compile(result)
        if turn is not None:
            bench.tell("compiled, waiting for the turn to measure")
            turn.release()
            world.first_rank_only(turn.take)
        bench.measure(result, runners)
        return result


@contextmanager
def _turn(plan: Plan) -> Iterator[Turn | None]:
    """Hold a share of the machine until this benchmark has finished."""
    if plan.turn is None:
        yield None
        return
    with Turn(plan.turn) as turn:
        turn.share()
        yield turn


class Runner:
    """One variant, compiled."""

    def __init__(
        self,
        variant: Variant,
        workload: Workload,
        world: World,
        graphs: bool,
        plan: Plan,
        as_a_whole: bool = False,
    ) -> None:
        self.variant, self.world = variant, world
        self.result = VariantResult(variant.label)
        self.without_dropout: dict[str, torch.Tensor] = {}
        before = _allocated()
        world.choose(variant.free)
        variant.prepare(world.group_for(variant.free), workload.hidden_bytes)
        by_trees = graphs and not as_a_whole
        self._step = Step(
            workload,
            world.group_for(variant.free),
            world.place.device,
            partial(variant.compile, cuda_graphs=by_trees, link=plan.link, kernels=plan.kernels),
        )
        self._run: Callable[[], object] = self._step
        known, skipped = len(domino_compile.reports()), _compat.graph_skips()
        began = time.perf_counter()
        self.first = self._step.results()
        self.result.compile_s = time.perf_counter() - began
        self._describe(known)
        if as_a_whole:
            self._run, self.result.note = recorded(self._step)
        gc.collect()  # memory left over from compiling must not count as the step's
        if world.place.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self()
        if world.place.device == "cuda":
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated()
            # The memory of a step that is recorded as a whole is kept by its graph.
            self.result.peak_mib = None if as_a_whole else (peak - before) / 2**20
        for _ in range(WARM_UP - 1):
            self()
        if by_trees and (count := _compat.graph_skips() - skipped):
            self.result.note = f"{count} programs without CUDA graphs"
        self._decided = not variant.measures
        # Gradients that stay alive in the pool of CUDA graphs would count as the next variant's.
        self._step.forget()

    def _describe(self, known: int) -> None:
        """Record the outcome of the compile from its reports."""
        self.reports = domino_compile.reports()[known:]
        self.result.status = "inductor"
        for report in self.reports:
            if report.collectives:
                self.result.status = report.status
                self.result.slices = len(report.slices) or 1
                self.result.columns = len(report.columns) or 1
        if peak := max((report.step_peak_bytes for report in self.reports), default=0):
            self.result.predicted_peak_mib = peak / 2**20

    def __call__(self) -> None:
        """Run one step."""
        self.world.choose(self.variant.free)
        self._run()

    def decide(self) -> None:
        """Run the steps in which a variant chooses its program, while nothing else runs here."""
        steps, self._decided = 0 if self._decided else len(TURNS) + 1, True
        for _ in range(steps):
            self()
        if steps:
            self._step.forget()

    def judged(self) -> dict[str, torch.Tensor]:
        """Return the results to compare with float64, from a step like the measured ones.

        With dropout, the program's random numbers differ from those of any reference. In that case
        these are the results of another program without dropout.
        """
        if self.without_dropout:
            return self.without_dropout
        self.world.choose(self.variant.free)
        results = self._step.results()
        self._step.forget()
        return results


def _ctas(place: Place, world: World) -> int | None:
    """Return the thread blocks that an emulated collective holds; ``None`` for real ones."""
    if world.table is None:
        return None
    return world.table.ctas if place.ctas is None else place.ctas


def _allocated() -> int:
    """Return the GPU memory in use, without memory that recording a CUDA graph gives back."""
    if not torch.cuda.is_available():
        return 0
    gc.collect()
    _compat.free_product_workspaces()
    return torch.cuda.memory_allocated()


class Bench:
    """The measurement of one workload."""

    def __init__(self, workload: Workload, plan: Plan, world: World, progress: Progress) -> None:
        self.workload, self.plan, self.world = workload, plan, world
        self.on_gpu = world.place.device == "cuda"
        self.graphs = plan.cuda_graphs and self.on_gpu
        self._progress = progress
        self._done = 0.0
        self._whole = 10.0 * len(plan.variants) * (2 if plan.float64 else 1) + plan.rounds + 5

    def tell(self, text: str, share: float = 0.0) -> None:
        """Report the current work and advance the progress by a share."""
        self._done += share
        self._progress(text, min(1.0, self._done / self._whole))

    def measure(self, result: BenchResult, runners: Sequence[Runner]) -> None:
        """Measure the variants, account for their time, and fill in the result."""
        for runner in runners:
            runner.decide()
        self._time(runners)
        blocks = max(self._account(runner) for runner in runners if self.is_traced(runner.variant))
        if not result.emulated:
            result.wire_ctas = blocks or None
        if self.plan.float64:
            self._compare_float64(runners)
        result.compare()
        self.tell("done", self._whole)

    def left_out(self, variant: Variant) -> str:
        """Return why a variant is not compiled, equal on all ranks; empty if it is."""
        del variant
        return ""

    def is_traced(self, variant: Variant) -> bool:
        """Return whether kernel traces account for a variant's time."""
        del variant
        return True

    def is_judged(self, variant: Variant) -> bool:
        """Return whether a variant's gradients are compared with float64."""
        return not variant.free

    def empty(self, command: str) -> BenchResult:
        """Return a result without variants."""
        world, place = self.world, self.world.place
        backend = "NCCL" if self.on_gpu else "gloo"
        return BenchResult(
            **asdict(self.workload),
            link=backend if world.table is None else world.table.name,
            emulated=world.table is not None,
            cuda_graphs=self.graphs,
            device=torch.cuda.get_device_name() if self.on_gpu else "cpu",
            torch=torch.__version__,
            command=command,
            rounds=self.plan.rounds,
            steps=self.plan.steps,
            wire_ctas=_ctas(place, world) if self.on_gpu else None,
            high_priority=self.on_gpu and place.high_priority,
        )

    def compile(self, result: BenchResult) -> list[Runner]:
        """Compile all variants. One that fails is listed with its error, unless it is the base.

        Raises:
            RanksError: A variant failed here but not on all ranks. Other ranks may have compiled it
                and wait for this rank in its collectives, so continuing would hang.
        """
        runners: list[Runner] = []
        for number, variant in enumerate(self.plan.variants, start=1):
            at = f"{variant.label} ({number} of {len(self.plan.variants)})"
            if reason := self.left_out(variant):
                result.variants.append(VariantResult(variant.label, status="failed", error=reason))
                continue
            self.tell(f"compiling {at}")
            runner = self._compiled(variant, needed=not runners)
            if isinstance(runner, str):
                failed = VariantResult(variant.label, status="failed", error=runner)
                result.variants.append(failed)
            else:
                self._compare_first(runner, runners[0] if runners else runner)
                runners.append(runner)
                result.variants.append(runner.result)
            self.tell(f"compiled {at}", 10)
        runners[0].first = {}
        return runners

    def _compiled(self, variant: Variant, needed: bool) -> Runner | str:
        """Compile a variant; return why that is impossible if it is so on all ranks."""
        message = ""
        on_real_links = self.graphs and self.world.table is None
        for as_a_whole in variant.recordings if on_real_links else (False,):
            at = variant.label + (" as a whole" if as_a_whole else "")
            try:
                runner = Runner(
                    variant, self.workload, self.world, self.graphs, self.plan, as_a_whole
                )
                if self.plan.float64 and self.workload.dropout and not variant.free:
                    runner.without_dropout = self._without_dropout(variant)
            except Exception as error:
                message = f"{type(error).__name__}: {first_line(error)}"
                if not self.world.failed_alike(at):
                    raise RanksError(f"{at} failed: {message}") from error
                if needed:
                    raise
                traceback.print_exc()
            else:
                if message:
                    runner.result.note += f"; Inductor's graphs failed: {message}"
                return runner
            gc.collect()  # the error is gone, and with it the memory that its frames held
            _compat.forget_failed_warm_up()
        return message

    def _compare_first(self, runner: Runner, base: Runner) -> None:
        if not runner.variant.free or self.world.table is not None:
            differences = errors(runner.first, base.first, self.world.place.device)
            runner.result.grad_error = worst(differences)
        if runner is not base:
            runner.first = {}

    def _time(self, runners: Sequence[Runner]) -> None:
        """Run all variants once per round; the first round is not counted.

        Each round has a new random order, which is the same on all ranks. At the power limit, a
        variant that always ran after one that leaves the device idle would seem faster.
        """
        times: list[list[float]] = [[] for _ in runners]
        turns, draw = list(zip(runners, times, strict=True)), random.Random(0)
        for number in range(self.plan.rounds + 1):
            self.tell(f"measuring, round {number} of {self.plan.rounds}", 1)
            draw.shuffle(turns)
            for runner, steps in turns:
                steps.append(self._timed(runner))
        for runner, steps in zip(runners, times, strict=True):
            rounds = self.world.agreed(steps[1:])
            runner.result.step_ms = statistics.median(rounds)
            runner.result.spread_ms = middle_half(rounds)

    def _timed(self, runner: Runner) -> float:
        """Return milliseconds per step, by device events on a GPU and by the clock otherwise."""
        self.world.line_up()
        if not self.on_gpu:
            began = time.perf_counter()
            for _ in range(self.plan.steps):
                runner()
            return (time.perf_counter() - began) * 1e3 / self.plan.steps
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        runner()  # the device has work while the host issues the measured steps
        begin.record()
        for _ in range(self.plan.steps):
            runner()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) / self.plan.steps

    def _account(self, runner: Runner) -> int:
        """Record wire, exposed and compute time from kernel traces or the emulated link's trace.

        Returns:
            The most thread blocks that a collective occupied; 0 if the trace does not say.
        """
        self.tell(f"tracing {runner.variant.label}", 5 / len(self.plan.variants))
        self.world.line_up()
        runner()
        if self.on_gpu:
            several = not self.world.place.one_process
            accounts = [
                Account.of(record(runner, self._kept(runner, number), lead=several))
                for number in range(self.plan.traced)
            ]
            account = Account.median(accounts)
            runner.result.take(account)
            runner.result.host_ms = self._host_ms(runner)
            return account.blocks
        if self.world.table is not None:
            self._account_gloo(runner)
        return 0

    def _kept(self, runner: Runner, number: int) -> Path | None:
        if self.plan.traces is None or number:
            return None
        self.plan.traces.mkdir(parents=True, exist_ok=True)
        name = runner.variant.label.replace(":", "-")
        if self.world.rank:
            name += f".rank{self.world.rank}"
        return self.plan.traces / f"{name}.trace.json"

    def _host_ms(self, runner: Runner) -> float:
        times = []
        for _ in range(TRACED):
            torch.cuda.synchronize()
            began = time.perf_counter()
            runner()
            times.append((time.perf_counter() - began) * 1e3)
        torch.cuda.synchronize()
        return statistics.median(times)

    def _account_gloo(self, runner: Runner) -> None:
        """Record wire and exposed time of gloo ranks, whose waits report how long they blocked."""
        wires, exposed = [], []
        for _ in range(TRACED):
            emulate.reset_trace()
            runner()
            summary = emulate.summary()
            wires.append(summary.wire_ms)
            exposed.append(summary.exposed_ms or 0.0)
        wire, blocked = self.world.agreed([statistics.median(wires), statistics.median(exposed)])
        runner.result.wire_ms, runner.result.exposed_ms = wire, blocked
        if runner.result.step_ms is not None:
            runner.result.compute_ms = runner.result.step_ms - blocked

    def _compare_float64(self, runners: Sequence[Runner]) -> None:
        """Compare each program's error against float64 with the error of the first, Inductor."""
        device = self.world.place.device
        self.tell("computing in float64")
        self.world.choose(free=True)
        exact = exact_results(self.workload, self.world.group, device)
        base: dict[str, Error] | None = None
        for runner in runners:
            self.tell(f"comparing {runner.variant.label} with float64", 10)
            if not self.is_judged(runner.variant):
                continue
            judged = errors(runner.judged(), exact, device)
            base = judged if base is None else base
            ranks = compare(judged, base)
            ratio, error = self.world.agreed([ranks.ratio, worst(judged)])
            runner.result.judge(error, ratio, ranks.name)
        del exact
        if self.on_gpu:
            torch.cuda.empty_cache()

    def _without_dropout(self, variant: Variant) -> dict[str, torch.Tensor]:
        """Compile the variant again without dropout, and return its results."""
        self.tell(f"compiling {variant.label} without dropout, to compare it with float64")
        plan, world = self.plan, self.world
        world.choose(variant.free)
        compiled = partial(variant.compile, link=plan.link, kernels=plan.kernels)
        workload, group = self.workload.without_dropout(), world.group_for(variant.free)
        return Step(workload, group, world.place.device, compiled).results()
