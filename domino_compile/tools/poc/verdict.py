"""The verdict of a proof of concept: one paragraph with its arithmetic, and an exit code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from domino_compile.ratio import change_text
from domino_compile.tools.poc.quality import NOISE_FACTOR, Quality

FASTER, NOT_FASTER, DIFFERS = 0, 3, 4
#: A gain below this is none, even where the baseline's rounds agree better.
LEAST_GAIN = 0.01
_NAMES = {"loss": "losses", "grad_norm": "gradient norms", "output": "outputs"}


@dataclass(frozen=True)
class Verdict:
    """The verdict on two programs.

    Attributes:
        code: Exit code: 0: faster, and training is equal; 3: not faster; 4: training differs, or
            ends with numbers that are not finite.
        faster: Whether the gain is larger than ``margin``.
        equal: Whether every quantity is equal within noise and rounding.
        speedup: The baseline's step over domino's.
        margin: The smallest gain that counts, as a share of the baseline's step.
        text: The explanation for the user.
    """

    code: int
    faster: bool
    equal: bool
    speedup: float
    margin: float
    text: str


@dataclass(frozen=True)
class Times:
    """One program's times in milliseconds.

    Attributes:
        step_ms: Median of all steps.
        round_ms: Median of every round.
        exposed_ms: Exposed time of a step.
    """

    step_ms: float
    round_ms: Sequence[float]
    exposed_ms: float


def decide(baseline: Times, domino: Times, qualities: Sequence[Quality], link: str = "") -> Verdict:
    """Return the verdict on two programs.

    Args:
        baseline: Inductor alone.
        domino: The program with domino.
        qualities: The comparisons of their training.
        link: The emulated link; empty for a real one.
    """
    spread = (max(baseline.round_ms) - min(baseline.round_ms)) / baseline.step_ms
    margin = max(LEAST_GAIN, spread)
    gain = 1 - domino.step_ms / baseline.step_ms
    faster, equal = gain > margin, all(quality.equal for quality in qualities)
    code = DIFFERS if not equal else FASTER if faster else NOT_FASTER
    head = {
        FASTER: "Faster, and training is equal",
        NOT_FASTER: "Not faster",
        DIFFERS: "Training differs",
    }[code]
    if code == NOT_FASTER and gain > 0:
        head = "Not faster by more than noise (more --steps or --rounds, on an idle machine, tell)"
    if code == DIFFERS and all(quality.equal or quality.broken for quality in qualities):
        head = "Training is not finite, with and without domino, and cannot be compared"
    if code == FASTER and not qualities:
        head = "Faster; of the training nothing could be compared"
    speedup = baseline.step_ms / domino.step_ms
    rounds = "the baseline ran one round"
    if len(baseline.round_ms) > 1:
        rounds = f"the baseline's own rounds differ by {spread:.1%}"
    sentences = [
        f"{head}: {change_text(baseline.step_ms, domino.step_ms)} a step, domino compared with "
        f"Inductor alone ({rounds}, so a gain above {margin:.1%} counts).",
        f"Exposed communication: {baseline.exposed_ms:.1f} ms before, {domino.exposed_ms:.1f} ms "
        "with domino.",
        *(_sentence(quality) for quality in qualities),
    ]
    if link:
        sentences.append(f"The link is emulated ({link}): times on the wire are the table's.")
    return Verdict(code, faster, equal, speedup, margin, " ".join(sentences))


def _sentence(quality: Quality) -> str:
    name = _NAMES[quality.name]
    steps = "1 step" if quality.not_finite == 1 else f"{quality.not_finite} steps"
    if quality.broken:
        return (
            f"The {name} are not finite at {steps}, the last among them, of both programs: they "
            "cannot be compared."
        )
    others = f" (but at {steps}, where they are not finite in both programs)"
    if not quality.not_finite or math.isinf(quality.difference):
        others = ""
    if quality.difference == 0:
        return f"The {name} are the same bit for bit{others}."
    noise = "the baseline ran once, so that its own noise is not known"
    if quality.noise is not None:
        amount = f"by {quality.noise:.1e}" if quality.noise else "by nothing"
        if math.isinf(quality.noise):
            amount = "without bound"
        noise = f"the baseline's own runs {amount}"
    limit = f"{NOISE_FACTOR:.0f} times that" if quality.allowed > quality.floor else "rounding"
    if math.isinf(quality.difference):
        return (
            f"The {name} differ without bound: at step {quality.step} one is missing or not "
            f"finite, and not so in all runs ({noise})."
        )
    return (
        f"The {name} differ by at most {quality.difference:.1e} of their value (at step "
        f"{quality.step}; {noise}), {'within' if quality.equal else 'more than'} {limit} "
        f"({quality.allowed:.1e}){others}."
    )
