"""The interface of a pass: its inputs, its context and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from torch import fx

    from domino_compile.analysis.found import Found
    from domino_compile.analysis.shards import Shards
    from domino_compile.cost import CostModel
    from domino_compile.passes.schedule import ScheduleResult
    from domino_compile.pipeline.decision import Decision
    from domino_compile.scheduling import Result
    from domino_compile.transport.choice import Choice

T = TypeVar("T")


@dataclass(frozen=True)
class Pass(Generic[T]):
    """One rewriting of a graph, in place.

    Attributes:
        name: The name of its file, a ``PassName``, used in dumps and by ``disable_passes``.
        wanted: Whether it applies to a graph. The option ``disable_passes`` is handled elsewhere.
        run: Rewrites the graph and returns what was done. The result is falsy if and only if the
            graph is unchanged, because only then are earlier results about the graph reused.
        optional: Whether the graph does without the pass if the checker does not establish it. With
            any other pass, the graph then loses its plan. An optional pass is the last of its
            stage: the graph that is restored has new nodes, of which earlier results know nothing.
    """

    name: str
    wanted: Callable[[Context], bool]
    run: Callable[[fx.Graph, Context], T]
    optional: bool = False


@dataclass(frozen=True)
class Lowering:
    """What passes must know about the lowering that runs the rewritten graphs.

    Attributes:
        fuses: Whether it fuses operations and orders kernels itself, so that an order must be
            pinned.
        products: Whether it supports matrix products that know the collective they run beside.
        copies_inputs: Whether it copies inputs to fixed addresses (CUDA graphs).
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

    def drop(self, made: Pass[Any]) -> None:
        """Forget the result of a pass, whose work has been undone."""
        self._of.pop(made.name, None)

    @property
    def changed(self) -> bool:
        """Return whether any pass has changed the graph."""
        return any(self._of.values())


@dataclass
class Context:
    """What passes may know about one graph, besides the graph itself.

    Attributes:
        cost: The cost model.
        lowering: The lowering that runs the graph.
        on_gpu: Whether its collectives run on a GPU.
        memory_cap: How much more memory an order may need, as a fraction.
        held_bytes: The bytes of parameters and inputs of the whole step.
        saved: For a backward graph, the results of its forward, if known.
        found: For a joint graph, its current collectives.
        shards: For a joint graph, where it takes over and returns one rank's tokens, if tokens
            should be exchanged there.
        decision: For a joint graph, the decision about it, once it is made.
        outcomes: The results of the passes so far.
        choice: What decides the transport of collectives; ``None``: NCCL carries all.
        agreed: Whether all ranks have a given order of a lowered graph's collectives.
        carried: Whether all ranks carry the same launches in the same way, besides NCCL's.
    """

    cost: CostModel
    lowering: Lowering
    on_gpu: bool
    memory_cap: float
    held_bytes: int = 0
    saved: tuple[Result, ...] = ()
    found: Found | None = None
    shards: Shards | None = None
    decision: Decision | None = None
    outcomes: Outcomes = field(default_factory=Outcomes)
    choice: Choice | None = None
    agreed: Callable[[ScheduleResult], bool] = lambda result: True
    carried: Callable[[Mapping[fx.Node, str]], bool] = lambda launches: True
