"""Checks every pass of one compile, and collects what was established."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from domino_compile.errors import DominoError
from domino_compile.verify.check import Established, Memory, check
from domino_compile.verify.claims import Witness
from domino_compile.verify.order_record import OrderRecord
from domino_compile.verify.part import NotEstablished
from domino_compile.verify.plain import Graph
from domino_compile.verify.read import read_graph


class NotEqual(DominoError):
    """A pass is not shown to leave a program as it was.

    Attributes:
        node: The value for which that is so.
    """

    def __init__(self, made: str, node: str, reason: str, line: str) -> None:
        at = f" at {line}" if line else ""
        super().__init__(f"{made} is not shown to keep {node}{at}: {reason}")
        self.node = node


@dataclass(frozen=True)
class Checked:
    """One pass that was checked.

    Attributes:
        phase: ``joint``, ``forward``, ``backward`` or ``inference``.
        name: The name of the pass.
        before: The graph before it.
        after: The graph after it.
        witness: What the pass claims.
        done: What was established.
        seconds: How long the check took.
    """

    phase: str
    name: str
    before: Graph
    after: Graph
    witness: Witness
    done: Established
    seconds: float


@dataclass
class Verifier:
    """Checks passes as they run.

    Attributes:
        checked: The passes so far, in order.
        orders: What was established about the order of emitted code, graph by graph.
        problem: What is not established about the passes; empty if everything is.
        seconds: How long all checks took.
    """

    checked: list[Checked] = field(default_factory=list)
    orders: list[OrderRecord] = field(default_factory=list)
    problem: str = ""
    seconds: float = 0.0
    memory: Memory = field(default_factory=Memory)
    _latest: tuple[fx.Graph, Graph] | None = None

    def begin(self) -> None:
        """Forget the last graph: what comes may have been changed by others."""
        self._latest = None

    def forget_last(self) -> None:
        """Forget the last pass, whose work has been undone."""
        self.checked.pop()
        self.begin()

    def read(self, graph: fx.Graph) -> Graph:
        """Return a graph as it is before a pass, which is as it was after the last one.

        Raises:
            NotEqual: The graph cannot be read.
        """
        latest = self._latest
        if latest is not None and latest[0] is graph:
            return latest[1]
        return self._read(graph)

    def _read(self, graph: fx.Graph) -> Graph:
        began = time.perf_counter()
        try:
            return read_graph(graph)
        except Exception as error:  # whatever the user's graph has: it is refused, not broken
            raise NotEqual("the check", "the graph", _fault(error), "") from error
        finally:
            self.seconds += time.perf_counter() - began

    def check(self, phase: str, name: str, before: Graph, graph: fx.Graph, outcome: Any) -> None:
        """Check what a pass has made of a graph.

        Raises:
            NotEqual: The graph is not shown to compute the same.
        """
        after = self._read(graph)
        began = time.perf_counter()
        witness = getattr(outcome, "witness", None) or Witness()
        try:
            done = check(before, after, witness, self.memory)
        except NotEstablished as problem:
            known = after.operations.get(problem.node) or before.operations.get(problem.node)
            line = known.line if known is not None else ""
            raise NotEqual(name, problem.node, problem.reason, line) from problem
        except Exception as error:  # a fault of the checker: nothing is established
            raise NotEqual(name, "the graph", _fault(error), "") from error
        finally:
            seconds = time.perf_counter() - began
            self.seconds += seconds
        self._latest = graph, after
        self.checked.append(Checked(phase, name, before, after, witness, done, seconds))


def _fault(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return f"it cannot be checked ({type(error).__name__}{': ' + said[0] if said else ''})"
