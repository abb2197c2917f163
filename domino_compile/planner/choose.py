"""Which candidate is taken: a pure function of the predictions, so that all ranks agree.

::

    uncut  = reordered if that gains something, else Inductor alone
    cut    = the fastest cut whose memory is at most (1 + cap) times that of Inductor alone
    chosen = cut if cut <= (1 - margin) * uncut, else uncut

Equally fast candidates: the one named first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from domino_compile.analysis import reasons
from domino_compile.analysis.reasons import Reason
from domino_compile.planner.candidates import Candidate

#: By what part of its time a graph must be faster for its order to be changed. Less than this is
#: less than what predictions are worth, and a program of Inductor's own is never slower than it.
LEAST_GAIN = 0.005


@dataclass(frozen=True)
class Prediction:
    """What a candidate is predicted to do.

    Attributes:
        candidate: what is done.
        us: time of a step, forward and backward; microseconds.
        peak_bytes: the largest estimate of what lives at once.
        exposed_us: of that, while nothing computes.
        waited: the collectives that are not hidden, by name.
        estimated: whether ``us`` is only an estimate: the candidate was not put in order, since
            better ones were known already.
    """

    candidate: Candidate
    us: float
    peak_bytes: int
    exposed_us: float = 0.0
    waited: frozenset[str] = frozenset()
    estimated: bool = False


@dataclass(frozen=True)
class Policy:
    """What a choice must keep to.

    Attributes:
        margin: by what part of the uncut time a cut must be faster; minus infinity where any cut
            is wanted.
        memory_cap: how much more memory than Inductor alone a cut may need, as a fraction.
    """

    margin: float
    memory_cap: float

    def allowed_bytes(self, alone: Prediction) -> float:
        """The memory that a cut may need, given what Inductor alone needs."""
        return alone.peak_bytes * (1 + self.memory_cap)

    @property
    def missed(self) -> str:
        """What the margin finds wrong with a cut that it refuses."""
        if self.margin < 0:
            return f"slower by more than the {-self.margin:.1%} that may be measured"
        return f"the gain is below the required {self.margin:.1%}"

    @property
    def always(self) -> bool:
        """Whether any cut is wanted, however slow."""
        return self.margin == -math.inf


@dataclass(frozen=True)
class Choice:
    """What is done and why.

    Attributes:
        chosen: the prediction of what is taken.
        reason: why nothing is cut; ``None`` for a cut.
        verdicts: for each prediction why it is not taken, in their order; empty for the chosen one.
    """

    chosen: Prediction
    reason: Reason | None
    verdicts: tuple[str, ...]


def choose(predictions: Sequence[Prediction], policy: Policy) -> Choice:
    """Take one of the candidates.

    Args:
        predictions: of Inductor alone first; of any other candidates.
        policy: margin and memory.
    """
    alone = predictions[0]
    allowed = policy.allowed_bytes(alone)
    whole = [p for p in predictions if not p.candidate.cut]
    uncut = min(whole, key=lambda p: p.us)
    if uncut.us > (1 - LEAST_GAIN) * alone.us:
        uncut = alone
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
            f" ({least.candidate}: {_mib(least.peak_bytes)} at the peak)"
        )
    return reasons.below_margin(
        f"the best cut, {best.candidate}, is predicted to take {_ms(best.us)} against"
        f" {_ms(uncut.us)} uncut: {policy.missed}"
    )


def _verdict(
    p: Prediction, chosen: Prediction, allowed: float, limit: float, policy: Policy
) -> str:
    if p.candidate.cut and not p.estimated and p.peak_bytes > allowed:
        return f"needs {_mib(p.peak_bytes)}, memory_cap allows {_mib(allowed)}"
    if p.estimated:
        return "estimated slower, even with everything hidden"
    if p.candidate.cut and not chosen.candidate.cut and p.us > limit:
        return policy.missed
    if p.us < chosen.us and chosen.candidate.cut:
        return "faster, but a cut is wanted" + ("" if policy.always else ", to be measured")
    if p.us < chosen.us:
        return f"less than {LEAST_GAIN:.1%} faster"
    return "slower" if p.us > chosen.us else "no faster"


def _ms(microseconds: float) -> str:
    return f"{microseconds / 1e3:.3g} ms"


def _mib(size: float) -> str:
    return f"{size / 2**20:.4g} MiB"
