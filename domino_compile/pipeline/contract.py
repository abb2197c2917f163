"""The interface of a pass: its inputs, its context and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from torch import fx

    from domino_compile.analysis.found import Found
    from domino_compile.cost import CostModel
    from domino_compile.passes.schedule import ScheduleResult
    from domino_compile.pipeline.decision import Decision
    from domino_compile.scheduling import Result

T = TypeVar("T")


@dataclass(frozen=True)
class Pass(Generic[T]):
    """One rewriting of a graph, in place.

    Attributes:
        name: what dumps and the option ``disable_passes`` call it: the name of its file.
        wanted: whether it has anything to do with a graph. The option ``disable_passes`` is obeyed
            elsewhere.
        run: rewrites the graph and returns what was done. The result is false (0, nothing) exactly
            if the graph is as it was: what was found out about a graph is used again only then.
    """

    name: str
    wanted: Callable[[Context], bool]
    run: Callable[[fx.Graph, Context], T]


@dataclass(frozen=True)
class Lowering:
    """What passes must know about the lowering that runs the rewritten graphs.

    Attributes:
        fuses: it fuses operations and orders its kernels itself, so that an order must be pinned.
        products: it takes matrix products that know of the collective they run beside.
        copies_inputs: it copies inputs to where it wants them (CUDA graphs).
    """

    fuses: bool = False
    products: bool = False
    copies_inputs: bool = False


class Outcomes:
    """The results of the passes on one graph."""

    def __init__(self) -> None:
        self._of: dict[str, Any] = {}

    def put(self, made: Pass[T], outcome: T) -> None:
        """Record the result of a pass."""
        self._of[made.name] = outcome

    def of(self, made: Pass[T]) -> T | None:
        """Return the result of a pass; ``None`` if it did not run."""
        outcome: T | None = self._of.get(made.name)
        return outcome

    @property
    def changed(self) -> bool:
        """Whether any pass has changed the graph."""
        return any(self._of.values())


@dataclass
class Context:
    """What passes may know about one graph, besides the graph itself.

    Attributes:
        cost: predicts times.
        lowering: what runs the graph.
        on_gpu: whether its collectives run on a GPU.
        memory_cap: how much more memory an order may need, as a fraction.
        held_bytes: parameters and inputs of the whole step.
        saved: of a backward graph, what its forward returns, where that is known.
        found: of a joint graph, its collectives as they are now.
        decision: of a joint graph, what is done with it, once that is decided.
        outcomes: what the passes so far returned.
        agreed: whether all ranks have an order of a lowered graph's collectives.
    """

    cost: CostModel
    lowering: Lowering
    on_gpu: bool
    memory_cap: float
    held_bytes: int = 0
    saved: tuple[Result, ...] = ()
    found: Found | None = None
    decision: Decision | None = None
    outcomes: Outcomes = field(default_factory=Outcomes)
    agreed: Callable[[ScheduleResult], bool] = lambda result: True
