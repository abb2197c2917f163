"""What a training on a changing network comes to: step times by phase and plan, and losses."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.changing_rank import KEPT, UNCUT, WATCHED
from benchmarks.namespaces import Shape
from benchmarks.page import as_table

#: The first steps of a program: they compile backward, and allocate.
WARM_UP = 2
Step = dict[str, Any]


@dataclass(frozen=True)
class Phase:
    """A time in which the network does not change.

    Attributes:
        name: What it is called.
        shape: What all links are like.
        steps: The number of steps.
        ranks: The ranks whose bandwidth it sets; all if empty.
    """

    name: str
    shape: Shape
    steps: int
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Span:
    """Steps of one phase that run the same plan.

    Attributes:
        phase: The name of the phase.
        plan: For which link the watched variant's plan is, as a multiple of the table's times.
        numbers: The numbers of the steps whose times count.
    """

    phase: str
    plan: float
    numbers: list[int]


def times_of(steps: Sequence[Step], variant: str) -> dict[int, float]:
    """Return the milliseconds of a variant's steps by their number."""
    return {step["step"]: step["ms"] for step in steps if step["variant"] == variant}


def replans(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Return when the watched variant was compiled, for which link, and what that step took."""
    return [
        {
            "step": step["step"],
            "slower": step["plans"][-1]["slower"],
            "plan": step["plans"][-1]["summary"],
            "seconds": round(step["ms"] / 1e3, 2),
        }
        for step in steps
        if step["variant"] == WATCHED and step["plans"]
    ]


def spans(phases: Sequence[Phase], steps: Sequence[Step], watch: int) -> list[Span]:
    """Divide the steps by phase and plan.

    Steps that compile, follow a compile or a change directly, or contain a probe are left out.
    """
    made = {plan["step"]: plan["slower"] for plan in replans(steps)}
    found: list[Span] = []
    border = 0
    for phase in phases:
        numbers = range(border, border + phase.steps)
        disturbed = {n + after for n in (*made, border) for after in range(WARM_UP)}
        for plan, group in itertools.groupby(numbers, lambda n: _plan_at(made, n)):
            counted = [n for n in group if n not in disturbed and (watch == 1 or (n + 1) % watch)]
            if counted:
                found.append(Span(phase.name, plan, counted))
        border += phase.steps
    return found


def _plan_at(made: Mapping[int, float], number: int) -> float:
    return next((made[n] for n in sorted(made, reverse=True) if n <= number), 1.0)


def quartiles(times: Sequence[float]) -> list[float]:
    """Return the lower quartile, the median and the upper quartile of times, rounded."""
    if len(times) == 1:
        return [round(times[0], 1)] * 3
    return [round(value, 1) for value in statistics.quantiles(times, n=4, method="inclusive")]


def rows(phases: Sequence[Phase], steps: Sequence[Step], watch: int) -> list[dict[str, Any]]:
    """Return a row for each phase and plan, with the quartiles of both variants in ms."""
    shapes = {phase.name: phase.shape for phase in phases}
    watched, kept = times_of(steps, WATCHED), times_of(steps, KEPT)
    return [
        {
            "phase": span.phase,
            **asdict(shapes[span.phase]),
            "planned_for": span.plan,
            "steps": len(span.numbers),
            "watched_ms": quartiles([watched[n] for n in span.numbers]),
            "kept_ms": quartiles([kept[n] for n in span.numbers if n in kept] or [0.0]),
        }
        for span in spans(phases, steps, watch)
    ]


def furthest(losses: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the largest relative difference of each variant's losses from the uncut program's."""
    uncut = losses[UNCUT]
    return {
        name: max(abs(a - b) / abs(b) for a, b in zip(values, uncut, strict=True))
        for name, values in losses.items()
        if name != UNCUT
    }


def table(result: Mapping[str, Any]) -> str:
    """Return the table of step times in Markdown."""
    titles = ["Network", "Each link", "Planned for", "`watch`, ms", "no `watch`, ms", "Steps"]
    cells = [
        [
            row["phase"],
            f"{row['mbit']:g} Mbit/s, {row['delay_ms']:g} ms",
            f"{row['planned_for']:.3g} x the table's times",
            *(
                f"{middle:.0f} [{low:.0f}, {high:.0f}]"
                for low, middle, high in (row["watched_ms"], row["kept_ms"])
            ),
            str(row["steps"]),
        ]
        for row in result["rows"]
    ]
    return as_table(titles, cells)


def dead_links(result: Mapping[str, Any]) -> str:
    """Return the table of dead links in Markdown."""
    titles = ["Ranks", "Link that dies", "While the ranks", "Other ranks: error after"]
    cells = [
        [
            str(case["ranks"]),
            f"rank {case['victim']}'s",
            case["moment"],
            ", ".join(f"{end['after_s']:.1f} s" for end in case["others"]),
        ]
        for case in result["dead_links"]
    ]
    return as_table(titles, cells)
