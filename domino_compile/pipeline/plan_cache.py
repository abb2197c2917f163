"""Keeps plans on disk beside Inductor's caches.

When a compile is answered from a cache our passes do not run and nothing is known of the program
but that it is the one that they made. The plan is kept under a key of the same ingredients, so
that a report can be given and ranks can compare, whoever compiled.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import fx

from domino_compile.agreement.votes import Vote
from domino_compile.host.kept import keep, kept
from domino_compile.pipeline.reporting import completed
from domino_compile.report import CompileReport


def plan_key(gm: fx.GraphModule, example_inputs: list[Any], identity: str) -> str:
    """Return a key for the captured graph, its inputs and everything that decides the result."""
    inputs = [_describe(x) for x in example_inputs]
    text = "\n".join((identity, gm.print_readable(print_output=False), *inputs))
    return hashlib.sha256(text.encode()).hexdigest()


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{type(value).__name__} {value.dtype} {tuple(value.shape)} {value.requires_grad}"
    return f"{type(value).__name__} {value}"


@dataclass(frozen=True)
class Kept:
    """A plan that was kept.

    Attributes:
        reports: The reports of the compile and of its nested regions.
        votes: What the ranks agreed on; whoever runs the program asks again.
    """

    reports: tuple[CompileReport, ...]
    votes: tuple[Vote, ...]

    def completed(self, earlier: Kept) -> Kept:
        """Return this plan with what an earlier process kept of graphs that come from a cache."""
        for report, known in zip(self.reports, earlier.reports, strict=False):
            completed(report, known)
        cast = {vote.key for vote in self.votes}
        more = (vote for vote in earlier.votes if vote.key not in cast)
        return Kept(self.reports, (*self.votes, *more))


def save_plan(key: str, plan: Kept) -> None:
    """Keep a plan."""
    votes = [asdict(vote) for vote in plan.votes]
    data = {"reports": [report.as_dict() for report in plan.reports], "votes": votes}
    keep(f"{key}.json", json.dumps(data, indent=1, sort_keys=True) + "\n")


def load_plan(key: str) -> Kept | None:
    """Return the kept plan, if it exists and is readable."""
    text = kept(f"{key}.json")
    if text is None:
        return None
    try:
        data = json.loads(text)
        votes = tuple(Vote.from_dict(vote) for vote in data["votes"])
        reports = tuple(CompileReport.from_dict(report) for report in data["reports"])
        return Kept(reports, votes) if reports else None
    except (ValueError, TypeError, KeyError):
        return None
