"""Run a proof of concept: both variants alternating, each in its own processes."""

from __future__ import annotations

import fnmatch
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domino_compile.report.dump import ARTEFACTS
from domino_compile.tools.poc.result import BASELINE, DOMINO, PocResult, PocRun, poc_result
from domino_compile.tools.profiling.earlier import (
    RANK_FILES,
    TIMELINES,
    remove_files,
    remove_result,
)
from domino_compile.tools.profiling.ranks import run_on_ranks
from domino_compile.tools.profiling.script import VARIANTS, Outcome, Request
from domino_compile.tools.profiling.session import Phases, Progress
from domino_compile.tools.scripts import require_something

_RUN = rf"runs/\d+\.({BASELINE}|{DOMINO})"
_GRAPHS = (r"dumps/graph_\d+", r"dumps/rank_\d+/graph_\d+")
_DUMPED = ["/".join(map(fnmatch.translate, pattern.split("/"))) for pattern in ARTEFACTS]
#: What a run leaves in its folder, besides the result.
LEFT = (
    f"{_RUN}/({RANK_FILES}|request\\.json)",
    TIMELINES,
    *(f"{graph}/{file}" for graph in _GRAPHS for file in _DUMPED),
)


@dataclass(frozen=True)
class Plan:
    """A comparison to make.

    Attributes:
        script: The path of the script.
        arguments: The command line of the script.
        processes: The number of processes to start.
        alone: The number of ranks that one process stands for; 0: every rank is a process.
        link: The emulated link; empty: the real one.
        phases: The number of steps of each kind in a run.
        rounds: The number of runs of each variant.
        options: Options of the backend, besides those that the script has.
        seed: The seed of torch, Python, NumPy and Python's hashes, in every process.
        out: The folder for the results.
    """

    script: Path
    arguments: tuple[str, ...]
    processes: int
    alone: int = 0
    link: str = ""
    phases: Phases = field(default_factory=Phases)
    rounds: int = 2
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    out: Path = Path("out/poc")

    def turns(self) -> Iterator[tuple[int, str]]:
        """Yield round and variant in running order; each round begins with the variant run last.

        A machine that gets warmer or busier meanwhile then favours neither variant.
        """
        for number in range(self.rounds):
            both = (BASELINE, DOMINO)
            yield from ((number, name) for name in (both[::-1] if number % 2 else both))


def run(plan: Plan, progress: Progress) -> PocResult:
    """Run both variants in turn, and compare. What an earlier run left in the folder is removed.

    Raises:
        ScriptError: The script failed, or has nothing to overlap.
        RanksError: A rank died.
    """
    remove_result(plan.out)
    remove_files(plan.out, *LEFT)
    runs: list[PocRun] = []
    turns = list(plan.turns())
    with tempfile.TemporaryDirectory(prefix="domino_poc_") as caches:
        for number, (round_, variant) in enumerate(turns):

            def tell(text: str, share: float, number: int = number, variant: str = variant) -> None:
                where = f"run {number + 1} of {len(turns)}, {VARIANTS[variant]}: {text}"
                progress(where, (number + share) / len(turns))

            tell("starting", 0.0)
            request = _request(plan, round_, variant)
            outcomes = run_on_ranks(
                request, plan.processes, tell, _environment(plan, Path(caches), variant)
            )
            _check(request, outcomes)
            ranks = tuple(o.measured for o in outcomes if o.measured is not None)
            runs.append(PocRun(variant, round_, ranks))
    command = shlex.join([str(plan.script), *plan.arguments])
    return poc_result(runs, command, _settings(plan), _notes(plan))


def _request(plan: Plan, round_: int, variant: str) -> Request:
    options = dict(plan.options)
    if variant == DOMINO and round_ == 0:
        options.setdefault("dump_dir", str(plan.out / "dumps"))
    return Request(
        plan.script,
        plan.arguments,
        variant,
        plan.phases,
        options,
        plan.link,
        plan.alone,
        plan.seed,
        plan.out / "runs" / f"{round_}.{variant}",
    )


def _environment(plan: Plan, caches: Path, variant: str) -> dict[str, str]:
    """Return separate cache folders, so that the first compile of each variant is complete."""
    return {
        "PYTHONHASHSEED": str(plan.seed),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / variant),
        "DOMINO_COMPILE_DISABLE": "",
        "DOMINO_COMPILE_DUMP_DIR": "",
    }


def _check(request: Request, outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        outcome.check(request)
    first = outcomes[0]
    if request.variant == DOMINO and first.measured is not None:
        reports = first.measured.reports
        collectives = sum(len(report.collectives) for report in reports)
        require_something(request.script, first.compiles, len(reports), collectives)


def _settings(plan: Plan) -> dict[str, Any]:
    return {
        "seed": plan.seed,
        "rounds": plan.rounds,
        "warmup": plan.phases.warmup,
        "steps": plan.phases.steps,
        "options": {name: str(value) for name, value in plan.options.items()},
    }


def _notes(plan: Plan) -> list[str]:
    if not plan.alone:
        return []
    return [
        f"One process stands for one of {plan.alone} ranks: the collectives take the time of the "
        "link table and no numbers travel, so the curves are not those of a real training."
    ]
