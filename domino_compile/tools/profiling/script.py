"""Run one rank of a measured script, unmodified or with another compiler."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from domino_compile import _compat
from domino_compile.report import CompileReport, reports
from domino_compile.switch import compile_with_domino
from domino_compile.tools.profiling.measured import RankMeasured, emulated_link, measured
from domino_compile.tools.profiling.plans import plan_graph
from domino_compile.tools.profiling.session import Phases, Progress, Session
from domino_compile.tools.scripts import (
    Asked,
    Compiles,
    ScriptError,
    compiles_redirected,
    enough,
    require_something,
    run_script,
)
from domino_compile.tools.scripts.groups import emulated
from domino_compile.tools.scripts.spawned import spawning_refused
from domino_compile.tools.scripts.steps import Steps, steps_observed

#: How a script's compiles are answered, with the title of its timeline.
VARIANTS: Mapping[str, str] = {
    "own": "as the script has it",
    "inductor": "Inductor alone",
    "domino": "with domino",
}


@dataclass(frozen=True)
class Request:
    """A script to run on every rank, and how.

    Attributes:
        script: The path of the script.
        arguments: The command line of the script.
        variant: One of ``VARIANTS``.
        phases: The number of steps of each kind.
        options: Options for domino in addition to the script's own.
        link: The emulated link that replaces the script's groups; empty for none.
        alone: The number of ranks that one process on a GPU stands for; 0 if every rank is a
            process.
        seed: The seed that is set before the script begins; None leaves it alone.
        folder: The folder for the output and the results of each rank.
    """

    script: Path
    arguments: tuple[str, ...] = ()
    variant: str = "own"
    phases: Phases = field(default_factory=Phases)
    options: Mapping[str, Any] = field(default_factory=dict)
    link: str = ""
    alone: int = 0
    seed: int | None = None
    folder: Path = Path()

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        plain = {**asdict(self), "script": str(self.script), "folder": str(self.folder)}
        return plain | {"options": dict(self.options)}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Request:
        """Undo ``as_dict``."""
        values = dict(data)
        for name in ("script", "folder"):
            values[name] = Path(values[name])
        values["arguments"] = tuple(values["arguments"])
        values["phases"] = Phases(**values["phases"])
        return Request(**values)


@dataclass
class Outcome:
    """The outcome of one rank's run.

    Attributes:
        code: The script's exit code; 0 if it was ended because it had run enough.
        ended_s: When it ended, by ``time.time()``.
        steps: The number of steps it ran.
        collectives: The number of collectives in one step; None if unknown.
        compiles: The number of calls of ``torch.compile``.
        measured: None if it failed or did too few steps.
        error: What to do, if the script failed for a known reason; otherwise empty.
    """

    code: int = 0
    ended_s: float = 0.0
    steps: int = 0
    collectives: float | None = None
    compiles: Compiles = field(default_factory=Compiles)
    measured: RankMeasured | None = None
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        plain = None if self.measured is None else self.measured.as_dict()
        return vars(self) | {"compiles": vars(self.compiles), "measured": plain}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Outcome:
        """Undo ``as_dict``."""
        outcome = Outcome(**data)
        outcome.compiles = Compiles(**data["compiles"])
        if data["measured"] is not None:
            outcome.measured = RankMeasured.from_dict(data["measured"])
        return outcome

    def check(self, request: Request) -> None:
        """Check that something was measured.

        Raises:
            ScriptError: Nothing compiled, no step, too few steps, or no collective; with the next
                step.
        """
        script = request.script
        require_something(script, self.compiles, self.compiles.graphs, None)
        if self.measured is None:
            raise ScriptError(_too_few(request, self.steps))
        if self.measured.account is None:
            raise ScriptError(
                f"{script} runs torch's profiler while its steps are measured, and there can be "
                "but one: switch it off"
            )
        collectives = None if self.collectives is None else round(self.collectives)
        require_something(script, self.compiles, None, collectives)


def _too_few(request: Request, steps: int) -> str:
    phases = request.phases
    if not steps:
        return (
            f"{request.script} did no step: nothing was differentiated, no optimizer stepped and "
            "no compiled graph ran twice"
        )
    return (
        f"{request.script} did {steps} steps and ended; {phases.whole} are needed ({phases.warmup} "
        f"to warm up, {phases.steps} timed, {phases.traced} traced): let it run longer, or give a "
        "smaller --warmup or --steps"
    )


def run(
    request: Request,
    progress: Progress = lambda text, share: None,
    finished: Callable[[RankMeasured], None] = lambda result: None,
) -> Outcome:
    """Run the script on this rank until its steps are measured.

    Args:
        request: What to run.
        progress: Told after every step.
        finished: Called with the measurements while the script's process group is still there.
    """
    outcome = Outcome()
    known = len(reports())

    def rank_result() -> RankMeasured:
        rank, ranks = _place(request)
        title = VARIANTS[request.variant]
        compiled = reports()[known:]
        result = measured(session, title, rank, ranks, emulated_link(), compiled, steps.kind, plans)
        result.precision = precision.coarsest
        return result

    def end() -> None:
        outcome.measured = rank_result()
        finished(outcome.measured)
        raise enough()

    session = Session(request.phases, end, progress)
    steps = Steps(session.ended, session.restarted)
    precision = _Precision()
    plans: list[CompileReport] = []

    def compile_graph(
        asked: Asked, gm: torch.fx.GraphModule, inputs: list[Any]
    ) -> Callable[..., Any]:
        if request.variant == "own" and asked.backend == "inductor" and not _place(request)[0]:
            options = {"link": request.link} if request.link else {}
            plans.extend(plan_graph(gm, inputs, options, len(plans)))
        session.compile_began()
        precision.see(gm)
        return steps.graph(_compiled(request, asked, gm, inputs))

    with ExitStack() as stack:
        if request.link:
            device = "cuda" if request.alone else "cpu"
            ranks = request.alone or int(os.environ.get("WORLD_SIZE", "1"))
            stack.enter_context(emulated(request.link, ranks, device))
        redirected = compiles_redirected(
            outcome.compiles, compile_graph, lambda asked: _backend(request, asked) == "domino"
        )
        stack.enter_context(redirected)
        stack.enter_context(steps_observed(steps))
        stack.enter_context(spawning_refused(request.script))
        if request.seed is not None:
            seed_everything(request.seed)
        outcome.code = run_script(request.script, request.arguments)
        session.stop_tracing()
        outcome.steps = len(session.facts)
        if outcome.code == 0 and outcome.measured is None and session.step_ms:
            late = rank_result()  # it ended by itself, in the middle of the phases
            outcome.measured = late if late.account is not None else None
    if outcome.measured is not None and outcome.measured.account is not None:
        outcome.collectives = outcome.measured.account.collectives
    outcome.ended_s = time.time()
    return outcome


def _place(request: Request) -> tuple[int, int]:
    """Return this rank and the number of ranks."""
    if request.alone:
        return 0, request.alone
    rank, ranks = _compat.rank_and_world()
    return int(os.environ.get("RANK", rank)), int(os.environ.get("WORLD_SIZE", ranks))


def _compiled(
    request: Request, asked: Asked, gm: torch.fx.GraphModule, inputs: list[Any]
) -> Callable[..., Any]:
    """Compile a graph as the variant says, with those of the user's settings that apply."""
    if _backend(request, asked) == "inductor":
        settings = _compat.mode_options(asked.mode) if asked.mode else {}
        return _compat.compile_with_inductor(gm, inputs, settings | asked.inductor)
    return compile_with_domino(asked, request.options, gm, inputs)


def _backend(request: Request, asked: Asked) -> str:
    """Return what compiles for the script: the variant, or what it asked for."""
    return asked.backend if request.variant == "own" else request.variant


class _Precision:
    """The coarsest type that graphs compute in."""

    def __init__(self) -> None:
        self.coarsest = 0.0

    def see(self, gm: torch.fx.GraphModule) -> None:
        """Look at the values of a captured graph."""
        for node in gm.graph.nodes:
            value = node.meta.get("example_value")
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                self.coarsest = max(self.coarsest, torch.finfo(value.dtype).eps)


def seed_everything(seed: int) -> None:
    """Seed torch, Python and NumPy (if it is there)."""
    torch.manual_seed(seed)
    random.seed(seed)
    try:
        import numpy
    except ImportError:
        return
    numpy.random.seed(seed)
