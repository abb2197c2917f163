"""Runs many random programs cut and uncut, and keeps what differs; ``benchmarks/fuzz.py`` uses it.

Most programs are *captured*: their joint graph is run before and after the passes. The others are
*compiled*: they go through ``torch.compile`` with the eager lowering, which also recomputes
checkpointed parts, partitions the graph, and makes sizes dynamic.
"""

from __future__ import annotations

import importlib
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import domino_compile
from tests.property.captured import capture, largest_error, rewritten
from tests.property.programs import Program, run
from tests.property.wide import SINGLE, wide_programs

#: The relative error that is allowed in float64.
DOUBLE = 1e-10
#: The module, whose name in the package is that of its function.
PROPAGATE = importlib.import_module("domino_compile.analysis.propagate")


@dataclass
class Found:
    """What a run has seen.

    Attributes:
        programs: The number of different programs, by how they were run.
        statuses: What was done with their graphs.
        features: How many programs had each feature.
        failures: What went wrong, with the program.
        unsupported: Programs that torch itself refuses, by its message.
        seconds: The duration.
    """

    programs: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    features: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    unsupported: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def fail(self, text: str) -> None:
        """Keep what went wrong, and print it at once."""
        self.failures.append(text)
        print(text, file=sys.stderr, flush=True)

    def add(self, other: Found) -> None:
        """Take over what another process has seen."""
        for name in ("programs", "statuses", "features", "unsupported"):
            getattr(self, name).update(getattr(other, name))
        self.failures += other.failures
        self.seconds = max(self.seconds, other.seconds)


def limit(program: Program) -> float:
    """The relative error that is allowed."""
    return SINGLE if "float32" in program.features else DOUBLE


def run_captured(program: Program, options: dict[str, Any]) -> tuple[float, str]:
    """The largest error of the rewritten joint graph, and what was done with it."""
    joint = capture(program)
    found, report = rewritten(joint, **options)
    return largest_error(found.run(), joint.run()), report.status


def run_compiled(program: Program, options: dict[str, Any]) -> tuple[float, str]:
    """The same through ``torch.compile``, against the program as it is."""
    chosen = {"lowering": "eager", "check_ranks": False, **options}

    def wrap(module: torch.nn.Module) -> Callable[..., Any]:
        torch._dynamo.reset()
        dynamic = None if program.slices % 2 else True
        return torch.compile(
            module, backend="domino", options=chosen, fullgraph=True, dynamic=dynamic
        )

    found = run(program, wrap).errors(run(program))
    return max(found.values(), default=0.0), domino_compile.reports()[-1].status


#: Rows, columns and passes of a run, and whether they are checked.
CHOICES = st.fixed_dictionaries(
    {
        "slices": st.sampled_from([2, 2, 2, 3, 4, 1]),
        "columns": st.sampled_from([1, 1, 1, 2, 3]),
        "disable_passes": st.sampled_from([(), (), (), ("normalise",), ("schedule",)]),
        "verify": st.sampled_from(["off", "on"]),
    }
)


def fuzz(count: int, until: float, number: int, compiled_share: float) -> Found:
    """Run random programs.

    Args:
        count: how many.
        until: when to stop, as ``time.monotonic`` has it.
        number: the seed.
        compiled_share: the share of programs that is compiled.
    """
    began, seen, found = time.monotonic(), set[str](), Found()
    draw = random.Random(number)

    def one(program: Program, options: dict[str, Any], is_compiled: bool) -> None:
        text = f"{program}{options}"
        if text not in seen and len(seen) < count and time.monotonic() < until:
            seen.add(text)
            _note(found, program, options, is_compiled)

    with mock.patch.object(PROPAGATE, "begin", lambda node, call: None):
        while len(seen) < count and time.monotonic() < until:
            # The first example of each round is the simplest program, so a round has many.
            is_compiled = draw.random() < compiled_share
            checked = given(wide_programs(pure=not is_compiled), CHOICES, st.just(is_compiled))
            quick = settings(
                max_examples=20,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            seed(draw.getrandbits(32))(quick(checked(one)))()
    found.seconds = time.monotonic() - began
    return found


def _note(found: Found, program: Program, options: dict[str, Any], is_compiled: bool) -> None:
    kind = "compiled" if is_compiled else "captured"
    try:
        error, status = (run_compiled if is_compiled else run_captured)(program, options)
    except Exception as caught:
        said = f"{type(caught).__name__}: {caught}".splitlines()[0][:160]
        if any(text in str(caught) for text in UNSUPPORTED):
            found.unsupported[said] += 1
            return
        trace = "".join(traceback.format_exception(caught)[-6:])
        found.fail(f"{kind} {options} raised {said}\n{program}\n{trace}")
        return
    found.programs[kind] += 1
    found.statuses[status] += 1
    found.features.update(program.features)
    if not error < limit(program):
        found.fail(f"{kind} {options} is off by {error:.2e}\n{program}")


#: Messages of torch about programs that it does not compile with any backend.
UNSUPPORTED: tuple[str, ...] = ()
