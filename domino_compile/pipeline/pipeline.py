"""One compile, from the captured graph to ordered graphs: find, decide, cut, order, report.

A lowering calls ``run_joint`` on the joint (or inference) graph and ``run_graph`` on each graph
that the partitioner makes of it. The passes and their order are in ``order``.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest

from torch import fx

from domino_compile.agreement.check import RankCheck
from domino_compile.analysis.found import Found, find_collectives
from domino_compile.graph.collectives import has_own_sizes, is_launch
from domino_compile.graph.tags import mark_alone, mark_in_order, mark_region, region_of
from domino_compile.options import Options
from domino_compile.pipeline import artefacts, reporting
from domino_compile.pipeline.consensus import Consensus
from domino_compile.pipeline.contract import Lowering
from domino_compile.pipeline.decide import Question, decide, left_alone, planned
from domino_compile.pipeline.facts import Facts, phase_of
from domino_compile.pipeline.hints import Hints
from domino_compile.pipeline.order import (
    CUT,
    GRAPH,
    NORMALISE,
    PREPARE,
    SCHEDULE,
)
from domino_compile.pipeline.plan_cache import Kept, load_plan, save_plan
from domino_compile.pipeline.regrouping import decide_regrouped
from domino_compile.pipeline.room import with_room
from domino_compile.pipeline.runner import Runner
from domino_compile.planner import by_inductor, predict_as_found, unfold
from domino_compile.report import CompileReport, FurtherReports
from domino_compile.report.dump import Dump
from domino_compile.report.faults import Failure, report_fault
from domino_compile.report.graph_rows import GraphRows
from domino_compile.report.schedule import uncut
from domino_compile.scheduling import Result
from domino_compile.verify.verifier import Verifier

log = logging.getLogger(__name__)


@dataclass
class Pipeline:
    """The passes of one compiled graph, and their results.

    Attributes:
        report: The report for the user, which the pipeline fills in.
        options: The user's options.
        hints: Facts about the inputs.
        lowering: The lowering that runs the graphs.
        slower: How many times slower than its table the link is assumed to be.
        plan_key: The key of the plan beside the lowering's cache, if there is one.
        rewrites: Whether the joint graph was cut or its order is ours; otherwise the program is
            compiled by Inductor alone.
        overlap: Whether to order the next graphs. A fault ends this too.
        results: What the graph that was scheduled last returns.
        consensus: What the other ranks are asked about this compile.
        ran: Whether the joint passes ran (they do not where the lowering answers from its cache).
        check: The agreement with the other ranks; ``None``: they are not asked.
        left_because: Why the ranks leave the graph to Inductor alone; empty if they do not.
        further: The reports of nested regions; ``None``: a region has none within itself.
        regions: Nested regions, each a joint graph of its own (``nested_compile_region``).
        kept: The plan that an earlier process kept under ``plan_key``.
    """

    report: CompileReport
    options: Options
    hints: Hints
    lowering: Lowering
    slower: float = 1.0
    plan_key: str | None = None
    dump: Dump = field(init=False)
    runner: Runner = field(init=False)
    consensus: Consensus = field(init=False)
    rows: GraphRows = field(default_factory=GraphRows)
    facts: Facts = field(init=False)
    results: tuple[Result, ...] = ()
    rewrites: bool = False
    overlap: bool = False
    ran: bool = False
    check: RankCheck | None = None
    left_because: str = ""
    further: FurtherReports | None = None
    regions: list[Pipeline] = field(default_factory=list)
    kept: Kept | None = field(init=False)

    def __post_init__(self) -> None:
        self.kept = load_plan(self.plan_key) if self.plan_key is not None else None
        self.report.slower = self.slower
        proves = self.options.transport != "nccl"
        self.consensus = Consensus(self.check, self.report, proves)
        self.facts = Facts(self.options, self.hints, self.lowering, self.slower)
        self.dump = Dump(self.options.dump_dir, self.report.graph, self.hints.names)
        verifier = Verifier() if self.options.verify != "off" else None
        self.runner = Runner(self.dump, self.options.disable_passes, self.report.graph, verifier)

    # -- the two stages --------------------------------------------------------------------

    def run_joint(self, graph: fx.Graph) -> None:
        """Find the collectives, decide and cut, before partitioning.

        The graph of a nested region comes first, and once more when it has been partitioned.
        """
        if _region(graph) is not None:
            return
        part, number = self, 0
        if self.report.collectives:
            if not any(map(is_launch, graph.nodes)):
                return
            part, number = self._new_region(), len(self.regions)
        part._run_joint(graph)
        for launch in filter(is_launch, graph.nodes):
            mark_region(launch, number)

    def _new_region(self) -> Pipeline:
        """Return the pipeline of one more joint graph of this compile."""
        assert self.further is not None
        check = replace(self.check, names={}, variants={}) if self.check is not None else None
        given = (self.further.begin(), self.options, self.hints, self.lowering, self.slower)
        self.regions.append(Pipeline(*given, check=check, left_because=self.left_because))
        return self.regions[-1]

    @property
    def parts(self) -> list[Pipeline]:
        """Return the pipelines of all joint graphs of this compile."""
        return [self, *self.regions]

    def _run_joint(self, graph: fx.Graph) -> None:
        self.ran = True
        collectives = find_collectives(graph, self.hints.parameters_in(graph))
        for site in (site for site in collectives.sites if site.launch not in collectives.parallel):
            mark_alone(site.launch)
        if not collectives.parallel:
            self._nothing_to_overlap(collectives)
            return
        work = partial(self._joint, graph, collectives)
        failure = with_room(lambda: self.runner.stage(graph, "joint", work))
        if failure is not None:
            self._failed(failure)
        log.info("%s", self.report.summary())

    def run_graph(self, graph: fx.Graph) -> Pipeline:
        """Order and pin, after partitioning and the lowering's own passes.

        Returns:
            The pipeline of the joint graph that the graph is part of.
        """
        part = self.parts[_region(graph) or 0]
        part._run_graph(graph)
        if part is not self:
            self.keep()
        return part

    def _run_graph(self, graph: fx.Graph) -> None:
        if not self.overlap or not any(is_launch(n) for n in graph.nodes):
            return
        phase = phase_of(graph, self.report)
        work = partial(self._graph, graph, phase)
        failure = with_room(lambda: self.runner.stage(graph, phase, work))
        if failure is not None:
            self._failed(failure)

    def _joint(self, graph: fx.Graph, collectives: Found) -> bool:
        """Decide and cut; return whether the graph is ours."""
        self.overlap = True
        reporting.captured(self.report, collectives)
        cost, program = self.facts.cost(graph), unfold(graph)
        units = program.units(cost)
        inductor_units = by_inductor(units, cost)
        self.report.input_bytes = self.facts.input_bytes(graph)
        reporting.predicted_for(self.report, cost)
        self.report.uncut = uncut(program.graph, inductor_units, program.is_backward)
        if self.dump.wanted:
            self.rows.captured(graph)
        if (why := left_alone(collectives, self.options, self.left_because)) is not None:
            reporting.left(self.report, why)
            self._settled([])
            return True  # as it was
        at = self.facts.context(graph, collectives)
        self.runner.run(PREPARE, graph, "joint", at)
        assert at.found is not None
        unchanged = None if at.outcomes.changed else program
        to_plan = planned(graph, self.lowering, self.options, unchanged)
        question = Question(
            *(graph, at.found, cost, predict_as_found(inductor_units, program.is_backward)),
            *(to_plan, units if to_plan is program else None),
            *(self.options, self.hints),
            held=self.report.input_bytes,
        )
        decision = decide_regrouped(question, decide(question), graph, at, self.runner)
        at.decision = decision
        merged = at.outcomes.of(NORMALISE)
        self._settled(decision.described(at.found, len(merged) if merged else 0))
        self.runner.run(CUT, graph, "joint", at)
        if any(has_own_sizes(site.launch) for site in collectives.sites):
            for launch in filter(is_launch, graph.nodes):
                mark_in_order(launch)  # each rank would put them in an order of its own
        reporting.decided(self.report, decision, at, self.dump.name_of)
        self.keep()
        return self.rewrites or not at.outcomes.changed

    def _settled(self, plan: list[str]) -> None:
        """Agree with the other ranks on a plan; an empty one leaves Inductor alone.

        Raises:
            RanksDiffer: The other ranks have another plan.
            RankMismatchError: The other ranks cannot run this program.
        """
        self.rewrites = self.overlap = bool(plan)
        if not self.left_because:
            self.consensus.on_plan(plan)
        if not plan:
            self.keep()

    def _graph(self, graph: fx.Graph, phase: str) -> bool:
        """Order and pin; return whether the graph is ours."""
        at = self.facts.context(graph, None)
        at.agreed = partial(self.consensus.on_order, phase)
        at.carried = partial(self.consensus.on_transport, phase, graph)
        at.held_bytes = self.report.input_bytes
        at.saved = self.results if phase == "backward" else ()
        self.runner.run(GRAPH, graph, phase, at)
        if why := self.consensus.on_proof(phase):
            self.overlap = False
            reporting.not_proved(self.report, phase, why)
            self.keep()
            return False
        ordered = at.outcomes.of(SCHEDULE)
        if ordered is not None:
            self.results = ordered.memory.results
            entry = reporting.scheduled(self.report, phase, ordered, at)
            if self.dump.wanted:
                artefacts.write_schedule(self.dump, entry)
                self.rows.scheduled(phase, graph)
        self.keep()
        return True

    def _nothing_to_overlap(self, collectives: Found) -> None:
        reporting.nothing_to_overlap(self.report, collectives)
        log.info("%s", self.report.summary())
        self.keep()

    def _failed(self, failure: Failure) -> None:
        """Handle a failed pass whose graph was restored: Inductor compiles it alone."""
        self.overlap = False
        self.rewrites = self.rewrites and failure.phase != "joint"
        reporting.failed(self.report, failure.phase, failure.error)
        self.consensus.failed(failure)
        self.keep()
        report_fault(self.dump, failure, self.options)

    # -- what others ask of a compile ------------------------------------------------------

    def recall(self) -> bool:
        """Take over the plan that was kept with programs from the lowering's cache.

        Either none of our passes ran, or only some did. The other ranks, which may have compiled,
        get the same questions again.

        Returns:
            Whether the plan is known and other ranks can run it too. A cache from another machine
            may have the program but not the plan.

        Raises:
            RanksDiffer: Other ranks have another plan.
        """
        if self.plan_key is None or (self.ran and not self._lacks_schedule()):
            return True
        if self.kept is None:
            log.info("Inductor's cache has this graph but no plan of it: compiling again")
            return False
        if self.ran:
            for part, known in zip(self.parts, self.kept.reports, strict=False):
                reporting.completed(part.report, known)
        else:
            for number, known in enumerate(self.kept.reports):
                part = self._new_region() if number else self
                reporting.recalled(part.report, known)
                log.info("%s", part.report.summary())
        self.write()
        return self.check is None or self.check.repeat(self.kept.votes)

    def _lacks_schedule(self) -> bool:
        """Return whether a graph was compiled that an earlier process scheduled, not this one."""
        known = self.kept.reports if self.kept is not None else ()
        for part, kept in zip_longest(self.parts, known):
            present = {s.phase for s in part.report.schedules} if part is not None else set()
            more = kept is not None and any(s.phase not in present for s in kept.schedules)
            if part is not None and part.overlap and (more or not present):
                return True
        return False

    def start_again(self, left_because: str = "") -> None:
        """Forget the compile, because the same graph is compiled again, or left alone."""
        reporting.restarted(self.report)
        if self.further is not None:
            self.further.withdraw()
        self.regions.clear()
        self.left_because, self.kept = left_because, None
        self.rewrites = self.overlap = self.ran = False
        if self.runner.verifier is not None:
            self.runner.verifier = Verifier()
        if left_because:
            self.plan_key = None  # the ranks may agree later

    def keep(self) -> None:
        """Keep the plan for later compiles, and update the dump."""
        complete = all(part.report.schedules or not part.overlap for part in self.parts)
        if self.plan_key is not None and self.ran and complete:
            save_plan(self.plan_key, self._to_keep())
        self.write()

    def _to_keep(self) -> Kept:
        """Return the plan, and what an earlier process kept of graphs that come from the cache."""
        reports = [
            replace(part.report, schedules=list(part.report.schedules)) for part in self.parts
        ]
        votes = list(self.check.cast) if self.check is not None else []
        plan = Kept(tuple(reports), tuple(votes))
        return plan if self.kept is None else plan.completed(self.kept)

    def write(self) -> None:
        """Write plan and report into the dump."""
        if self.dump.wanted:
            artefacts.write_plan(self.dump, self.report, self.rows)
            if self.runner.verifier is not None:
                artefacts.write_certificate(self.dump, self.runner.verifier)


def _region(graph: fx.Graph) -> int | None:
    """Return the number of the joint graph that a graph is or is part of, if that is planned."""
    launches = (node for node in graph.nodes if is_launch(node))
    return next((n for n in map(region_of, launches) if n is not None), None)
