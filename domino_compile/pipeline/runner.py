"""Runs passes with dumps and timing, and restores the graph if a pass fails."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from domino_compile.agreement.check import RanksDiffer
from domino_compile.errors import RankMismatchError
from domino_compile.graph.backup import Backup
from domino_compile.graph.collectives import Replaced
from domino_compile.pipeline.contract import Context, Pass
from domino_compile.pipeline.order import title
from domino_compile.report.dump import Dump, count_difference, op_counts
from domino_compile.report.faults import Failure
from domino_compile.verify.verifier import NotEqual, Verifier

log = logging.getLogger(__name__)

_seconds = 0.0


def seconds_in_passes() -> float:
    """Return how long this process has spent in our passes, including dumps."""
    return _seconds


@contextmanager
def _timed() -> Iterator[None]:
    global _seconds
    began = time.perf_counter()
    try:
        yield
    finally:
        _seconds += time.perf_counter() - began


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Keep Python's garbage collector from running.

    Everything that the passes and the compile have created stays alive until the passes end.
    Searching it repeatedly frees nothing, and takes longer the more objects there are.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass
class Runner:
    """Runs the passes of one compile.

    Attributes:
        dump: What receives the graphs before and after each pass.
        disabled: The passes that the user leaves out, by name.
        number: The number of the compiled graph, for the log.
        verifier: What checks what each pass does; ``None``: nothing is checked.
    """

    dump: Dump
    disabled: Collection[str] = field(default_factory=frozenset)
    number: int = 0
    verifier: Verifier | None = None

    def stage(self, graph: fx.Graph, phase: str, work: Callable[[], bool]) -> Failure | None:
        """Do work that runs passes on a graph and returns whether to keep the graph.

        If the graph is not kept, or the work fails, the graph is restored.

        Raises:
            RanksDiffer: The ranks go on without us, and the graph is of no use.
            RankMismatchError: The ranks cannot go on.
        """
        with _timed(), _garbage_kept():
            backup = Backup(graph)
            if self.verifier is not None:
                self.verifier.begin()
            try:
                if not work():
                    backup.restore(graph)
                graph.lint()
            except (RanksDiffer, RankMismatchError):
                raise
            except Exception as error:
                broken = self.dump.text_of(graph)
                backup.restore(graph)
                if self.verifier is not None and isinstance(error, NotEqual):
                    self.verifier.problem = str(error)
                return Failure(phase, graph, broken, error)
        return None

    def run(
        self, passes: Iterable[Pass[Any]], graph: fx.Graph, phase: str, context: Context
    ) -> None:
        """Run the wanted passes in order, and record their results in the context."""
        for made in passes:
            if made.name in self.disabled or not made.wanted(context):
                continue
            if made.optional and self.verifier is not None:
                outcome = self._one_if_established(made, graph, phase, context)
            else:
                outcome = self._one(made, graph, phase, context)
            if outcome is None:
                continue
            context.outcomes.put(made, outcome)
            if isinstance(outcome, Replaced) and context.found is not None:
                context.found = context.found.after(outcome)

    def undone(self, made: Pass[Any], context: Context) -> None:
        """Forget the last pass that ran, after its work has been undone."""
        context.outcomes.drop(made)
        if self.verifier is not None:
            self.verifier.forget_last()

    def _one_if_established(
        self, made: Pass[Any], graph: fx.Graph, phase: str, context: Context
    ) -> Any | None:
        """Run a pass; if it is not established, restore the graph and return ``None``."""
        backup = Backup(graph)
        try:
            return self._one(made, graph, phase, context)
        except Exception as error:
            backup.restore(graph)
            known = isinstance(error, NotEqual)
            self._left_out(made, phase, str(error) if known else f"{type(error).__name__}: {error}")
        return None

    def _left_out(self, made: Pass[Any], phase: str, why: str) -> None:
        name = f"{phase}/{title(made.name)}"
        log.info("graph %d: %s is left out: %s", self.number, name, why)
        if self.dump.wanted:
            self.dump.write(f"{name}.left_out.txt", f"{why}\n")

    def _one(self, made: Pass[Any], graph: fx.Graph, phase: str, context: Context) -> Any:
        name = f"{phase}/{title(made.name)}"
        before = op_counts(graph) if self.dump.wanted else None
        if before is not None:
            self.dump.write_graph(f"{name}.before.py", graph)
        plain = self.verifier.read(graph) if self.verifier is not None else None
        count, began = len(graph.nodes), time.perf_counter()
        outcome = made.run(graph, context)
        log.debug(
            "graph %d %s: %s took %.1f ms, %d -> %d nodes",
            *(self.number, phase, title(made.name), 1e3 * (time.perf_counter() - began)),
            *(count, len(graph.nodes)),
        )
        if before is not None:
            self.dump.write_graph(f"{name}.after.py", graph)
            self.dump.write(f"{name}.ops.txt", count_difference(before, op_counts(graph)))
        if self.verifier is not None and plain is not None:
            self.verifier.check(phase, made.name, plain, graph, outcome)
        return outcome
