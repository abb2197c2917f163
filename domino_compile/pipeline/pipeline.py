"""One compile from the captured graph to ordered graphs: find, decide, cut, order, report.

A lowering calls ``run_joint`` on the joint (or inference) graph and ``run_graph`` on each graph
that the partitioner makes of it. The passes and their order are in ``order``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import fx

from domino_compile import _compat
from domino_compile.analysis.found import Found, find_collectives
from domino_compile.cost import CostModel
from domino_compile.cost.waves import rows_a_block
from domino_compile.graph.collectives import is_launch, tensor_bytes, tensors_of
from domino_compile.options import Options
from domino_compile.pipeline import reporting
from domino_compile.pipeline.contract import Context, Lowering
from domino_compile.pipeline.decision import Question, decide
from domino_compile.pipeline.hints import Hints
from domino_compile.pipeline.order import (
    CUT,
    GRAPH,
    PIN,
    PREPARE,
    PRODUCTS,
    SCHEDULE,
    title,
)
from domino_compile.pipeline.plan_cache import load_plan, save_plan
from domino_compile.pipeline.runner import Runner
from domino_compile.planner import by_inductor, predict_as_found, unfold
from domino_compile.report import CompileReport
from domino_compile.report.dump import Dump
from domino_compile.report.faults import Failure, report_fault
from domino_compile.report.graph_rows import GraphRows
from domino_compile.report.report_text import report_text
from domino_compile.report.schedule import schedule, uncut
from domino_compile.report.schedule_text import schedule_text
from domino_compile.scheduling import Result, held_bytes

log = logging.getLogger(__name__)


@dataclass
class Pipeline:
    """The passes of one compiled graph, and what they found.

    Attributes:
        report: what was done, for the user; it is filled in.
        options: the user's.
        hints: about the inputs.
        lowering: what runs the graphs.
        slower: how many times slower than their link table collectives are taken to be.
        plan_key: under which the plan is kept beside the lowering's cache, if it has one.
        rewrites: whether the joint graph was cut or its order is ours; otherwise the program is
            Inductor's alone.
        overlap: whether the next graphs are ours to order. A fault ends that, too.
        results: what the graph that was scheduled last returns.
        ran: whether the joint passes ran (they do not where the lowering answers from its cache).
    """

    report: CompileReport
    options: Options
    hints: Hints
    lowering: Lowering
    slower: float = 1.0
    plan_key: str | None = None
    dump: Dump = field(init=False)
    runner: Runner = field(init=False)
    rows: GraphRows = field(default_factory=GraphRows)
    cost: CostModel | None = None
    results: tuple[Result, ...] = ()
    rewrites: bool = False
    overlap: bool = False
    ran: bool = False

    def __post_init__(self) -> None:
        self.report.slower = self.slower
        self.dump = Dump(self.options.dump_dir, self.report.graph, self.hints.names)
        self.runner = Runner(self.dump, self.options.disable_passes, self.report.graph)

    # -- the two stages --------------------------------------------------------------------

    def run_joint(self, graph: fx.Graph) -> None:
        """Before partitioning: find the collectives, decide, cut."""
        self.ran = True
        found = find_collectives(graph)
        if not found.parallel:
            self._nothing_to_overlap(found)
            return
        failure = self.runner.stage(graph, "joint", lambda: self._joint(graph, found))
        if failure is not None:
            self._failed(failure)
        log.info("%s", self.report.summary())

    def run_graph(self, graph: fx.Graph) -> None:
        """After partitioning and the lowering's own passes: order, pin."""
        if not self.overlap or not any(is_launch(n) for n in graph.nodes):
            return
        phase = phase_of(graph, self.report)
        failure = self.runner.stage(graph, phase, lambda: self._graph(graph, phase))
        if failure is not None:
            self._failed(failure)

    def _joint(self, graph: fx.Graph, found: Found) -> None:
        self.overlap = True
        reporting.captured(self.report, found)
        cost, program = self._cost(graph), unfold(graph)
        units = program.units(cost)
        alone = by_inductor(units, cost)
        self.report.input_bytes = held_bytes(graph) + self._copied_bytes(graph)
        self.report.uncut = uncut(program.graph, alone)
        if self.dump.wanted:
            self.rows.captured(graph)
        at = self._context(graph, found)
        self.runner.run(PREPARE, graph, "joint", at)
        assert at.found is not None
        changed = at.outcomes.changed
        decision = at.decision = decide(
            Question(
                *(graph, at.found, cost, predict_as_found(alone, program.is_backward)),
                *(unfold(graph) if changed else program, None if changed else units),
                *(self.options, self.hints),
            )
        )
        self.runner.run(CUT, graph, "joint", at)
        reporting.decided(self.report, decision, at, self.dump.name_of)
        self.rewrites = self.overlap = decision.reorder
        self._write()

    def _graph(self, graph: fx.Graph, phase: str) -> None:
        at = self._context(graph, None)
        at.held_bytes = self.report.input_bytes
        at.saved = self.results if phase == "backward" else ()
        self.runner.run(GRAPH, graph, phase, at)
        ordered = at.outcomes.of(SCHEDULE)
        if ordered is not None:
            entry = schedule(phase, ordered)
            self.results = ordered.memory.results
            entry.step_peak_bytes = ordered.memory.peak_bytes + round(
                at.cost.rates.library_mib * 2**20
            )
            told = at.outcomes.of(PRODUCTS) or {}
            entry.configured = {name: part for name, part in told.items() if part}
            entry.pinned = at.outcomes.of(PIN) or 0
            reporting.scheduled(self.report, entry)
            if self.dump.wanted:
                self.dump.write(f"{phase}/{title(SCHEDULE.name)}.txt", schedule_text(entry))
                self.rows.scheduled(phase, graph)
        self._write()

    def _nothing_to_overlap(self, found: Found) -> None:
        if self.report.collectives:
            return  # a sub-graph of a graph that has some
        reporting.nothing_to_overlap(self.report, found)
        log.info("%s", self.report.summary())
        self._write()

    def _failed(self, failure: Failure) -> None:
        """A pass failed and the graph was put back: Inductor goes on alone."""
        self.overlap = False
        self.rewrites = self.rewrites and failure.phase != "joint"
        reporting.failed(self.report, failure.phase, failure.error)
        self._write()
        report_fault(self.dump, failure, self.options)

    # -- what passes may know --------------------------------------------------------------

    def _context(self, graph: fx.Graph, found: Found | None) -> Context:
        return Context(
            cost=self._cost(graph),
            lowering=self.lowering,
            on_gpu=device_of(graph).type == "cuda",
            memory_cap=self.options.memory_cap,
            found=found,
        )

    def _cost(self, graph: fx.Graph) -> CostModel:
        if self.cost is None:
            device = self.options.device or device_of(graph)
            told = self.lowering.products and PRODUCTS.name not in self.options.disable_passes
            self.cost = CostModel(
                *(device, self.options.link, _compat.group_size, self.slower), configured=told
            )
        return self.cost

    def _copied_bytes(self, graph: fx.Graph) -> int:
        """The bytes of the inputs that the lowering keeps a copy of: all but parameters."""
        if not self.lowering.copies_inputs or device_of(graph).type == "cpu":
            return 0
        inputs = {n: _compat.input_position(n) for n in graph.find_nodes(op="placeholder")}
        return sum(
            tensor_bytes(n.meta["val"])
            for n, position in inputs.items()
            if position is not None and position not in self.hints.parameters
        )

    # -- what others ask of a compile ------------------------------------------------------

    @property
    def rows_a_block(self) -> Callable[[int], int] | None:
        """Rows for each thread block of a norm's gradients; ``None``: not known."""
        if self.cost is None or not self.cost.rates.multiprocessors:
            return None
        return partial(rows_a_block, multiprocessors=self.cost.free)

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
                    log.info("Inductor's cache has this graph and no plan of it: compiling anew")
                return self.plan_key is None
            reporting.recalled(self.report, kept)
            log.info("%s", self.report.summary())
        elif self.overlap and kept is not None:
            if not reporting.completed(self.report, kept):
                return True
        else:
            return True
        self._write()
        return True

    def _write(self) -> None:
        """Keep the plan for later compiles, and bring the dump up to date."""
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
