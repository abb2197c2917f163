"""The choice between candidates: a pure function of the predictions, so that all ranks agree.

::

    uncut  = reordered if that gains something, otherwise the captured graph
    cut    = the fastest cut whose memory is at most (1 + cap) times that of the captured graph
    chosen = cut if cut <= (1 - margin) * uncut, otherwise uncut

Of equally fast candidates the first one listed is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from domino_compile.analysis import reasons
from domino_compile.analysis.reasons import Reason
from domino_compile.planner.candidates import Candidate
from domino_compile.ratio import factor_text
from domino_compile.scheduling import allowed_bytes

#: The fraction of its time that reordering must save. Smaller gains are below the accuracy of the
#: predictions, and leaving a program to Inductor can never make it slower than Inductor's.
LEAST_GAIN = 0.005


@dataclass(frozen=True)
class Prediction:
    """The predicted time and memory of a candidate.

    Attributes:
        candidate: The way to treat the graph.
        us: The time of a step, forward and backward, in microseconds.
        peak_bytes: The largest estimate of the memory in use at once.
        exposed_us: The part of ``us`` during which nothing computes.
        waited: The names of the collectives that are not hidden.
        estimated: Whether ``us`` is only an estimate: the candidate was not scheduled because
            better ones were already known.
    """

    candidate: Candidate
    us: float
    peak_bytes: int
    exposed_us: float = 0.0
    waited: frozenset[str] = frozenset()
    estimated: bool = False


@dataclass(frozen=True)
class Policy:
    """The limits that a choice must respect.

    Attributes:
        margin: The fraction of the uncut time that a cut must save; minus infinity if any cut
            is wanted.
        memory_cap: How much more memory than with the captured graph a step may need with a cut,
            as a fraction.
        held: The bytes of parameters and inputs, which predictions do not count.
    """

    margin: float
    memory_cap: float
    held: int = 0

    def allowed_bytes(self, by_inductor: Prediction) -> float:
        """Return the bytes that a cut may need, given the prediction for the captured graph."""
        return allowed_bytes(by_inductor.peak_bytes, self.memory_cap, self.held)

    @property
    def missed(self) -> str:
        """Return why a cut outside the margin is refused, for messages."""
        if self.margin < 0:
            return f"more than {-self.margin:.1%} slower, too slow to be worth measuring"
        return f"the gain is below the required {self.margin:.1%}"

    @property
    def always(self) -> bool:
        """Return whether any cut is wanted, however slow."""
        return self.margin == -math.inf


@dataclass(frozen=True)
class Choice:
    """The chosen candidate and the reasons for it.

    Attributes:
        chosen: The prediction of the chosen candidate.
        reason: Why nothing is cut; ``None`` for a cut.
        verdicts: Why each prediction was not chosen, in their order; empty for the chosen one.
    """

    chosen: Prediction
    reason: Reason | None
    verdicts: tuple[str, ...]


def choose(predictions: Sequence[Prediction], policy: Policy) -> Choice:
    """Choose one of the candidates.

    Args:
        predictions: First that for the captured graph, compiled by Inductor; then those for other
            candidates, in any order.
        policy: The limits for margin and memory.
    """
    by_inductor = predictions[0]
    allowed = policy.allowed_bytes(by_inductor)
    whole = [p for p in predictions if not p.candidate.cut]
    uncut = min(whole, key=lambda p: p.us)
    if uncut.us > (1 - LEAST_GAIN) * by_inductor.us:
        uncut = by_inductor
    known = [p for p in predictions if p.candidate.cut and not p.estimated]
    fitting = [p for p in known if p.peak_bytes <= allowed]
    best = min(fitting, key=lambda p: p.us, default=None)
    limit = (1 - policy.margin) * uncut.us
    chosen = best if best is not None and best.us <= limit else uncut
    reason = _why_uncut(best, known, uncut, policy) if chosen is uncut else None
    verdicts = tuple(
        "" if p is chosen else _verdict(p, chosen, allowed, limit, policy) for p in predictions
    )
    return Choice(chosen, reason, verdicts)


def _why_uncut(
    best: Prediction | None, known: list[Prediction], uncut: Prediction, policy: Policy
) -> Reason:
    if best is None and not known:
        return reasons.no_gain()
    if best is None:
        least = min(known, key=lambda p: p.peak_bytes)
        return reasons.over_memory(
            f"every cut needs more memory than memory_cap={policy.memory_cap:g} allows"
            f" (the smallest, {least.candidate}, peaks at {_mib(least.peak_bytes)})"
        )
    return reasons.below_margin(
        f"compared with {'reordering' if uncut.candidate.reorder else 'Inductor'} alone, the best"
        f" cut ({best.candidate}) is predicted {factor_text(uncut.us, best.us)}:"
        f" {policy.missed}"
    )


def _verdict(
    p: Prediction, chosen: Prediction, allowed: float, limit: float, policy: Policy
) -> str:
    if p.candidate.cut and not p.estimated and p.peak_bytes > allowed:
        return f"needs {_mib(p.peak_bytes)}, memory_cap allows {_mib(allowed)}"
    if p.estimated:
        if p.us > chosen.us:
            return "estimated slower, even with everything hidden"
        return "estimated slower than others of its kind, which were tried"
    if p.candidate.cut and not chosen.candidate.cut and p.us > limit:
        return policy.missed
    if p.us < chosen.us and chosen.candidate.cut:
        return "faster, but " + ("a cut is wanted" if policy.always else "the cut will be measured")
    if p.us < chosen.us:
        return f"less than {LEAST_GAIN:.1%} faster"
    return "slower" if p.us > chosen.us else "no faster"


def _mib(size: float) -> str:
    return f"{size / 2**20:.4g} MiB"
