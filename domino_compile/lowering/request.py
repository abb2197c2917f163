"""One compile as a value: the captured graph, the settings, and the program."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import fx

from domino_compile import _compat
from domino_compile.agreement.check import RankCheck, RanksDiffer
from domino_compile.agreement.votes import Terms, overlap_vote
from domino_compile.cost.rates import rates_identity
from domino_compile.lowering.eager import compile_eager
from domino_compile.lowering.inductor import compile_planned, inductor_alone, inductor_lowering
from domino_compile.options import Options
from domino_compile.pipeline.contract import Lowering
from domino_compile.pipeline.hints import Hints, hints_of
from domino_compile.pipeline.pipeline import Pipeline
from domino_compile.pipeline.plan_cache import plan_key
from domino_compile.report import (
    CompileReport,
    FurtherReports,
    new_report,
    withdrawn_on_error,
)
from domino_compile.report.dump import check_folder
from domino_compile.report.explanation import OverlapError, explanation_of
from domino_compile.transport.choice import environment


@dataclass(frozen=True)
class Compiled:
    """A program, and everything known about it.

    Attributes:
        program: A function that runs the captured graph.
        pipeline: The pipeline that planned it.
        request: The request that it answers.
    """

    program: Callable[..., Any]
    pipeline: Pipeline
    request: Request

    @property
    def report(self) -> CompileReport:
        """The report of the compile."""
        return self.pipeline.report

    def run_by(self, program: Callable[..., Any]) -> Compiled:
        """Return the same compile with a wrapped program."""
        return replace(self, program=program)


@dataclass(frozen=True)
class Request:
    """Everything that decides a compile.

    Attributes:
        gm: The captured graph. Compiling consumes it.
        inputs: The graph's example inputs.
        options: The user's options.
        hints: Facts about the inputs.
        rates: The identity of the device rates that the cost model uses.
        slower: How many times slower than its table the link is assumed to be.
        pristine: A copy of the graph, if it may have to be compiled again.
        patience_s: How many seconds to wait for other ranks, at most the option
            ``check_timeout_s``.
    """

    gm: fx.GraphModule
    inputs: Sequence[Any]
    options: Options
    hints: Hints
    rates: str
    slower: float = 1.0
    pristine: fx.GraphModule | None = None
    patience_s: float = math.inf

    @staticmethod
    def of(gm: fx.GraphModule, inputs: Sequence[Any], options: Options) -> Request:
        """Make a request from Dynamo's call of the backend.

        Raises:
            OptionError: An option does not fit the graph, or names something unusable.
        """
        check_folder(options.dump_dir)
        hints = hints_of(gm, inputs, options)
        rates = rates_identity()
        _compat.keep_gradients(gm)
        again = options.guard == "measure" or options.watch > 0
        pristine = _compat.copy_of(gm) if again else None
        return Request(gm, inputs, options, hints, rates, pristine=pristine)

    def again(
        self, inputs: Sequence[Any], slower: float = 1.0, patience_s: float = math.inf
    ) -> Request:
        """Return the same request again, with other inputs or for another link."""
        assert self.pristine is not None
        gm = _compat.copy_of(self.pristine)
        return replace(
            self,
            gm=gm,
            inputs=list(inputs),
            slower=slower,
            pristine=None,
            patience_s=patience_s,
        )

    def compile(self) -> Compiled:
        """Compile the program that this package plans and all ranks agree on.

        Raises:
            RankMismatchError: The ranks cannot run the program together.
            OverlapError: The option ``require`` asks for overlap, and there is none.
        """
        eager = self.options.lowering == "eager"
        # A dump does not say where it is, so that two of them can be compared.
        described = replace(self.options, dump_dir=None).describe()
        further = FurtherReports(described)
        pipeline = Pipeline(
            new_report(described),
            self.options,
            self.hints,
            Lowering() if eager else inductor_lowering(self.options),
            slower=self.slower,
            plan_key=None if eager else self._plan_key(),
            check=self._rank_check(),
            further=further,
        )
        with withdrawn_on_error(pipeline.report, further):
            try:
                program = self._lower(pipeline)
            except RanksDiffer as differ:
                pipeline.start_again(str(differ))
                program = self._lower(pipeline)
        if self.options.require:
            require_overlap(pipeline.parts)
        return Compiled(program, pipeline, self)

    def _lower(self, pipeline: Pipeline) -> Callable[..., Any]:
        # The requirement covers backward, so backward must be compiled now.
        required = self.options.require is not None
        with _compat.backward_at_once() if required else nullcontext():
            if self.options.lowering == "eager":
                return compile_eager(self.gm, list(self.inputs), pipeline)
            return compile_planned(self.gm, self.inputs, pipeline, self._identity())

    def _rank_check(self) -> RankCheck | None:
        if not self.options.check_ranks:
            return None
        terms = Terms(self.options.digest(), f"{self.rates} {self.slower}", source_digest())
        timeout_s = min(self.options.check_timeout_s, self.patience_s)
        return RankCheck(terms, timeout_s, _compat.break_line(self.gm))

    def compile_uncut(self) -> Callable[..., Any]:
        """Compile without this package."""
        if self.options.lowering == "eager":
            return compile_eager(self.gm, list(self.inputs), None)
        return inductor_alone(self.gm, self.inputs, self.options)

    def _identity(self) -> str:
        """Return everything that decides the result of our passes, for cache keys."""
        known = f"{self.hints.identity()} {self.rates} {self.slower} {environment(self.options)}"
        return f"{source_digest()} {self.options.digest()} {known}"

    def _plan_key(self) -> str | None:
        if not _compat.caches_enabled():
            return None
        return plan_key(self.gm, list(self.inputs), self._identity())


def require_overlap(parts: Sequence[Pipeline]) -> None:
    """Require that every tensor-parallel collective is hidden, on all ranks.

    Args:
        parts: The pipelines of one compile.

    Raises:
        OverlapError: A collective is not hidden. The message names the first one and says why.
            All ranks raise the error if one does.
    """
    for part in parts:
        missing = ""
        try:
            explanation_of([part.report]).check()
        except OverlapError as error:
            missing = str(error)
        if part.check is not None:
            missing = part.check.agree(overlap_vote(part.report, missing)) or missing
        if missing:
            raise OverlapError(missing)


@cache
def source_digest() -> str:
    """Return a hash of the package's sources and data, and of torch's version."""
    hasher = hashlib.sha256(torch.__version__.encode())
    here = Path(__file__).parents[1]
    files = {*here.rglob("*.py"), *(here / "passes").glob("*.py"), *here.rglob("*.json")}
    for path in sorted(files):
        hasher.update(path.relative_to(here).as_posix().encode())
        hasher.update(path.read_bytes())
    return hasher.hexdigest()
