"""The passes of one compile, in order, on the graphs that a lowering hands over.

``JOINT`` runs on the joint forward and backward graph (or the inference graph) before it is
partitioned; ``GRAPH`` runs on each of the graphs that come out. This module knows neither Inductor
nor the eager lowering; ``backend`` connects it to them.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TypeVar

import sympy
import torch
from torch import fx

from domino_compile import _compat
from domino_compile.analysis import MIN_DYNAMIC_ROWS, CutPlan, NoCut, cut_columns, infer_cut
from domino_compile.cost import CostModel
from domino_compile.cost.waves import rows_a_block
from domino_compile.graph.collectives import Site, find_sites, is_launch, tensor_bytes, tensors_of
from domino_compile.options import Options
from domino_compile.passes.accumulate import accumulate_products
from domino_compile.passes.materialise import materialise_values
from domino_compile.passes.normalise import normalise_graph
from domino_compile.passes.pin import pin_order
from domino_compile.passes.products import mark_products
from domino_compile.passes.schedule import ScheduleResult, schedule_graph
from domino_compile.passes.slice import slice_graph
from domino_compile.planner import (
    REORDERED,
    Candidate,
    Planner,
    Prediction,
    Rules,
    by_inductor,
    phases_of,
    predict_as_found,
    rows_cut,
)
from domino_compile.report import CompileReport, new_report
from domino_compile.report import outcome as describe
from domino_compile.report.dump import Dump, count_difference, op_counts
from domino_compile.report.faults import Backup, report_fault
from domino_compile.report.graph_rows import GraphRows
from domino_compile.report.report_text import report_text
from domino_compile.report.schedule import schedule, uncut
from domino_compile.report.schedule_text import schedule_text
from domino_compile.runtime.plan_cache import load_plan, save_plan
from domino_compile.scheduling import Result, UnitGraph, build_units, held_bytes, step_memory

log = logging.getLogger(__name__)
T = TypeVar("T")

_seconds = 0.0


def seconds_in_passes() -> float:
    """How long this process has spent in our passes, dumps included."""
    return _seconds


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Keep Python's garbage collector from running.

    What passes make lives until they end, and so does all that the compile made before: looking
    through it again and again frees nothing, and takes longer the more of it there is.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass
class Hints:
    """What is known of the inputs before the graph is captured, by their position.

    Attributes:
        batch: inputs that the user says carry the batch, with the dimension.
        parameters: inputs that are parameters, unlikely to carry it.
        names: the user's names of the inputs, for dumps and reports.
    """

    batch: Mapping[int, int] = field(default_factory=dict)
    parameters: frozenset[int] = frozenset()
    names: Mapping[int, str] = field(default_factory=dict)


@dataclass
class Pipeline:
    """The passes of one compiled graph, and what they found.

    Attributes:
        options: the user's.
        hints: about the inputs.
        pin: whether the lowering fuses, so that it needs the order pinned.
        products: whether the lowering takes products that know of the collective they fly under.
        copies: whether the lowering copies inputs to where it wants them (CUDA graphs).
        slower: how many times their link table's time collectives take, as far as is known.
        plan_key: under which the plan is kept beside the lowering's cache, if it has one.
        results: what the graph that was scheduled last returns.
        ran: whether the joint passes ran (they do not where the lowering answers from its cache).
    """

    options: Options
    hints: Hints
    pin: bool
    report: CompileReport = field(init=False)
    dump: Dump = field(init=False)
    rows: GraphRows = field(default_factory=GraphRows)
    slower: float = 1.0
    products: bool = False
    copies: bool = False
    plan_key: str | None = None
    cost: CostModel | None = None
    results: tuple[Result, ...] = ()
    overlap: bool = False
    ran: bool = False

    def __post_init__(self) -> None:
        self.report = new_report(self.options.describe())
        self.report.slower = self.slower
        self.dump = Dump(self.options.dump_dir, self.report.graph, self.hints.names)

    # -- the two stages --------------------------------------------------------------------

    def run_joint(self, graph: fx.Graph) -> None:
        """Before partitioning: find the collectives, decide, slice."""
        self.ran = True
        sites = find_sites(graph)
        if not sites:
            if not self.report.collectives:  # else: a sub-graph of a graph that has some
                self.report.reason = "no collective in this graph"
                log.info("%s", self.report.summary())
                self._finish()
            return
        began = time.perf_counter()
        self._guarded(graph, "joint", lambda: self._joint(graph, sites))
        self._spent(began)
        log.info("%s", self.report.summary())

    def run_graph(self, graph: fx.Graph) -> None:
        """After partitioning and the lowering's own passes: order, pin."""
        if not self.overlap or not any(is_launch(n) for n in graph.nodes):
            return
        began = time.perf_counter()
        phase = phase_of(graph, self.report)
        self._guarded(graph, phase, lambda: self._graph(graph, phase))
        self._spent(began)

    def _spent(self, began: float) -> None:
        global _seconds
        _seconds += time.perf_counter() - began

    def _joint(self, graph: fx.Graph, sites: list[Site]) -> None:
        parallel = describe.classify(graph, sites)
        self.overlap = any(parallel.values())
        self.report.collectives = [describe.collective(s, parallel[s.launch]) for s in sites]
        if not self.overlap:
            self.report.reason = "no tensor-parallel collective in this graph"
            self._finish()
            return
        self.report.status = "reordered"
        cost, backward = self._cost(graph), phases_of(graph)
        found = build_units(graph, cost, backward)
        self.report.input_bytes = held_bytes(graph) + self._copied_bytes(graph)
        theirs = by_inductor(found, cost)
        self.report.uncut = uncut(graph, theirs)
        if self.dump.wanted:
            self.rows.captured(graph)
        alone, changed = predict_as_found(theirs, backward), 0
        if self._enabled("normalise"):
            changed = self._pass(graph, "joint", "01.normalise", lambda: normalise_graph(graph))
        if self._accumulates(cost):
            changed += self._pass(
                *(graph, "joint", "02.accumulate"), lambda: accumulate_products(graph)
            )
        if self.pin and self._enabled("materialise"):
            changed += self._pass(
                *(graph, "joint", "03.materialise"), lambda: materialise_values(graph)
            )
        rows, chosen = self._plan(graph, cost, alone, None if changed else found)
        describe.outcome(self.report, graph, rows, self.dump.name_of)
        if isinstance(rows, CutPlan):
            if rows.chunks.dynamic:
                _guard_rows(rows)
            self._pass(graph, "joint", "04.slice", lambda: slice_graph(graph, rows))
        if chosen.columns > 1:
            self._columns(graph, chosen)
        if self.report.status == "inductor":
            self.overlap = False
        self._finish()

    def _columns(self, graph: fx.Graph, chosen: Candidate) -> None:
        plan = cut_columns(graph, chosen.columns, _alone(graph), chosen.at)
        describe.column_outcome(self.report, graph, plan, self.dump.name_of, chosen.at)
        if isinstance(plan, CutPlan):
            self._pass(graph, "joint", "05.columns", lambda: slice_graph(graph, plan))

    def _plan(
        self, graph: fx.Graph, cost: CostModel, alone: Prediction, units: UnitGraph | None
    ) -> tuple[CutPlan | NoCut, Candidate]:
        """How rows are cut, or why not, and what was chosen: where columns are cut, and how."""
        slices, columns = self.options.slices, self.options.columns
        if not self._enabled("slice"):
            return describe.disabled("slice"), REORDERED
        if slices != "auto":
            return self._rows(graph, slices), Candidate(columns=1 if columns == "auto" else columns)
        rows, parts = self._rows(graph, 2), None if columns == "auto" else columns
        planner = Planner(
            graph=graph,
            cost=cost,
            alone=alone,
            rows=rows,
            columns=cache(lambda at: cut_columns(graph, parts or 2, _alone(graph), at)),
            rules=self._rules(),
            parts=parts,
            units=units,
        )
        choice = planner.run()
        self.report.candidates = describe.candidates(choice, planner.predictions)
        chosen = choice.chosen.candidate
        if parts is not None:
            chosen = replace(chosen, columns=parts)  # also if that cannot be: the report says why
        if not chosen.reorder:
            describe.left_alone(self.report)
        if chosen.rows and isinstance(rows, CutPlan):
            return rows_cut(rows, chosen), chosen
        if isinstance(rows, NoCut):
            return replace(rows, reason=f"{rows.reason}; {choice.reason}"), chosen
        return NoCut(choice.reason), chosen

    def _rules(self) -> Rules:
        """What a cut must keep to; where it is timed as well, a small loss may be predicted."""
        margins = {"predict": self.options.margin, "measure": -self.options.margin}
        return Rules(margins.get(self.options.guard, -math.inf), self.options.memory_cap)

    def _rows(self, graph: fx.Graph, slices: int) -> CutPlan | NoCut:
        inputs = {
            node: position
            for node in graph.find_nodes(op="placeholder")
            if (position := _compat.input_position(node)) is not None
        }
        named = {n: self.hints.batch[p] for n, p in inputs.items() if p in self.hints.batch}
        unlikely = frozenset(n for n, p in inputs.items() if p in self.hints.parameters)
        plan = infer_cut(graph, slices, named, unlikely, _alone(graph))
        if isinstance(plan, CutPlan) and plan.chunks.dynamic:
            bounded = _compat.strictly_bounded_sizes(graph)
            if bounded & sympy.sympify(plan.chunks.total).free_symbols:
                return NoCut("the batch is marked dynamic with bounds, which forbids other guards")
        return plan

    def _graph(self, graph: fx.Graph, phase: str) -> None:
        if self._enabled("schedule"):
            self._schedule(graph, phase, self._cost(graph))
        if self.pin and self._enabled("pin"):
            pinned = self._pass(graph, phase, "08.pin", lambda: pin_order(graph))
            if self.report.schedules and self.report.schedules[-1].phase == phase:
                self.report.schedules[-1].pinned = pinned
        self._finish()

    def _schedule(self, graph: fx.Graph, phase: str, cost: CostModel) -> None:
        """Order the graph, report the order, and tell products what flies above them."""
        result = self._pass(
            *(graph, phase, "06.schedule"),
            lambda: schedule_graph(graph, cost, self.options.memory_cap),
        )
        entry = schedule(phase, graph, result)
        entry.step_peak_bytes = self._step_peak_bytes(graph, phase, result, cost)
        others = [s for s in self.report.schedules if s.phase != phase]
        self.report.schedules = [*others, entry]
        if self.dump.wanted:
            self.dump.write(f"{phase}/06.schedule.txt", schedule_text(entry))
            self.rows.scheduled(phase, graph)
        if self._marks_products(graph):
            told = self._pass(
                *(graph, phase, "07.products"),
                lambda: mark_products(graph, result.units, result.after, cost.held),
            )
            entry.configured = {name: part for name, part in told.items() if part}

    def _accumulates(self, cost: CostModel) -> bool:
        """Whether sums go into products: torch alone would copy what is added to one."""
        on_gpu = cost.rates.multiprocessors > 0
        return cost.configured and on_gpu and self._enabled("accumulate")

    def _marks_products(self, graph: fx.Graph) -> bool:
        return self.products and self._enabled("products") and device_of(graph).type == "cuda"

    def _copied_bytes(self, graph: fx.Graph) -> int:
        """The bytes of the inputs that the lowering keeps a copy of: all but parameters."""
        if not self.copies or device_of(graph).type == "cpu":
            return 0
        inputs = {n: _compat.input_position(n) for n in graph.find_nodes(op="placeholder")}
        return sum(
            tensor_bytes(n.meta["val"])
            for n, position in inputs.items()
            if position is not None and position not in self.hints.parameters
        )

    def _step_peak_bytes(
        self, graph: fx.Graph, phase: str, result: ScheduleResult, cost: CostModel
    ) -> int:
        """The memory of a step at its peak while a scheduled graph runs."""
        units = [result.units.units[index] for index in result.after.order]
        forward = self.results if phase == "backward" else ()
        found = step_memory(graph, units, self.report.input_bytes, forward)
        self.results = found.results
        return found.peak_bytes + round(cost.rates.library_mib * 2**20)

    def table_us(self, group: str, nbytes: int) -> float:
        """The link table's time of an all-reduce of so many bytes in a group."""
        assert self.cost is not None
        return self.cost.table(group).time_us("all_reduce", nbytes)

    @property
    def rows_a_block(self) -> Callable[[int], int] | None:
        """Rows for each thread block of a norm's gradients; ``None``: not known."""
        if self.cost is None or not self.cost.rates.multiprocessors:
            return None
        return partial(rows_a_block, multiprocessors=self.cost.free)

    def _cost(self, graph: fx.Graph) -> CostModel:
        if self.cost is None:
            device = self.options.device or device_of(graph)
            self.cost = CostModel(
                *(device, self.options.link, _compat.group_size, self.slower),
                configured=self.products and self._enabled("products"),
            )
        return self.cost

    # -- running one pass ------------------------------------------------------------------

    def _enabled(self, name: str) -> bool:
        return name not in self.options.disable_passes

    def _pass(self, graph: fx.Graph, phase: str, name: str, run: Callable[[], T]) -> T:
        """Run a pass and write the graph before and after it."""
        before = op_counts(graph) if self.dump.wanted else None
        if before is not None:
            self.dump.write_graph(f"{phase}/{name}.before.py", graph)
        count, began = len(graph.nodes), time.perf_counter()
        result = run()
        log.debug(
            "graph %d %s: %s took %.1f ms, %d -> %d nodes",
            *(self.report.graph, phase, name, 1e3 * (time.perf_counter() - began)),
            *(count, len(graph.nodes)),
        )
        if before is not None:
            self.dump.write_graph(f"{phase}/{name}.after.py", graph)
            self.dump.write(f"{phase}/{name}.ops.txt", count_difference(before, op_counts(graph)))
        return result

    @_garbage_kept()
    def _guarded(self, graph: fx.Graph, phase: str, run: Callable[[], None]) -> None:
        """Run a stage; if it fails, the graph is as it was and Inductor goes on alone."""
        backup = Backup(graph)
        try:
            run()
            graph.lint()
        except Exception as error:
            broken = self.dump.text_of(graph)
            backup.restore(graph)
            self.overlap = False
            self.report.fault(phase, error)
            self._finish()
            report_fault(self.dump, phase, graph, broken, error, self.options)

    def recall(self) -> bool:
        """After compiling: what the lowering took from its cache, take from the plan kept with it.

        Either no pass of ours ran, or only the joint ones did.

        Returns:
            Whether it is known what was compiled. A cache may be another machine's: there is a
            program and no plan, which this rank would have to compare with those of others.
        """
        kept = load_plan(self.plan_key) if self.plan_key is not None else None
        if not self.ran:
            if kept is None:
                if self.plan_key is not None:
                    log.info("Inductor's cache has this graph and no plan of it: compiled anew")
                return self.plan_key is None
            for name, value in vars(kept).items():
                if name not in ("graph", "options"):
                    setattr(self.report, name, value)
            self.report.reason = self.report.reason or "compiled from Inductor's cache"
            log.info("%s", self.report.summary())
        elif self.overlap and kept is not None:
            present = {schedule.phase for schedule in self.report.schedules}
            missing = [s for s in kept.schedules if s.phase not in present]
            if not missing:
                return True
            self.report.schedules += missing
        else:
            return True
        self._finish()
        return True

    def _finish(self) -> None:
        complete = self.report.schedules or not self.overlap
        if self.plan_key is not None and self.ran and complete:
            save_plan(self.plan_key, self.report)
        self.write()

    def write(self) -> None:
        """Write plan and report into the dump."""
        if self.dump.wanted:
            self.dump.write("plan.json", self.report.to_json())
            self.dump.write("report.txt", report_text(self.report))
            if self.rows.before:
                self.dump.write("graphs.json", self.rows.to_json())


def _alone(graph: fx.Graph) -> frozenset[fx.Node]:
    """The collectives that are no tensor parallelism: they stay as they are."""
    parallel = describe.classify(graph, find_sites(graph))
    return frozenset(launch for launch, yes in parallel.items() if not yes)


def _guard_rows(plan: CutPlan) -> None:
    """Guard that every slice of a dynamic batch has at least two rows.

    Torch asks of many a dynamic extent whether it is 1, and makes a guard of the answer; of the
    batch it takes for granted that it is not. Of the slices it then knows it as well.
    """
    node, state = next(iter(plan.analysis.seeds.items()))
    rows = MIN_DYNAMIC_ROWS * len(plan.chunks)
    torch._check(node.meta["val"].shape[state.dim] >= rows)


def phase_of(graph: fx.Graph, report: CompileReport) -> str:
    """Which of the lowered graphs this is."""
    names = [str(n.target) for n in graph.find_nodes(op="placeholder")]
    if any(name.startswith("tangents") for name in names):
        return "backward"
    if any(c.phase == "backward" for c in report.collectives):
        return "forward"
    return "forward" if any(name.startswith("primals") for name in names) else "inference"


def device_of(graph: fx.Graph) -> torch.device:
    """Where the graph's collectives run."""
    for node in graph.nodes:
        if is_launch(node):
            return next(tensors_of(node.meta["val"])).device
    return torch.device("cpu")
