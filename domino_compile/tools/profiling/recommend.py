"""How much overlap could gain in a measured step, with the arithmetic behind it."""

from __future__ import annotations

from dataclasses import dataclass

from domino_compile.tools.profiling.account import Account

#: Share of the exposed time that gets hidden. BENCHMARKS.md has 93 to 97 %; the last collective of
#: a step has nothing behind it.
HIDDEN = 0.90
#: Additional compute because work is cut into smaller pieces: 5 % in BENCHMARKS.md.
SLICING = 0.05
#: How much slower work is beside a collective, as a share of the hidden time, because collectives
#: take multiprocessors and bandwidth. (Measured on an H100: products take 2 ms longer beside 6.5 ms
#: of collectives.) An emulated link between CPU ranks takes no compute; gloo was not measured.
CONTENTION = {"gpu": 0.30, "cpu": 0.0}
#: Below this speed-up a trial is not recommended, since the estimate is no more accurate than that.
LEAST = 1.03


@dataclass(frozen=True)
class Recommendation:
    """An estimate; times in milliseconds.

    Attributes:
        bound_ms: the best possible step with perfect overlap: the longer of all compute and all
            communication, plus whatever in the step is neither.
        share: exposed share of the step, the most that overlap can gain.
        predicted_ms: estimated time of a step with overlap.
        speedup: the current step time over ``predicted_ms``.
        worth: whether a trial is recommended.
        text: the explanation for the user.
    """

    bound_ms: float
    share: float
    predicted_ms: float
    speedup: float
    worth: bool
    text: str


def recommend(step_ms: float, account: Account, device: str, already: bool) -> Recommendation:
    """Estimate the step with overlap.

    Args:
        step_ms: the measured step time.
        account: how that time is spent.
        device: ``gpu`` or ``cpu``.
        already: whether this package compiled the measured program.
    """
    exposed = min(account.exposed_ms, step_ms)
    compute, wire = account.compute_ms, account.wire_ms
    hidden_now = max(0.0, wire - exposed)
    idle = max(0.0, step_ms - compute - exposed)
    bound = min(step_ms, max(compute, wire) + idle)
    hidden = HIDDEN * exposed
    cost = SLICING * compute + CONTENTION[device] * hidden
    predicted = max(bound, step_ms - hidden + cost)
    speedup = step_ms / predicted if predicted else 1.0
    share = exposed / step_ms if step_ms else 0.0
    slower = f", {CONTENTION[device]:.0%} slower beside collectives" if CONTENTION[device] else ""
    sums = (
        f"exposed {exposed:.1f} of {step_ms:.1f} ms a step ({share:.0%}); hiding {HIDDEN:.0%} of "
        f"it ({hidden:.1f} ms) and paying {cost:.1f} ms ({SLICING:.0%} of {compute:.1f} ms of "
        f"compute for slicing{slower}) leaves {predicted:.1f} ms: {speedup:.2f}x"
    )
    if predicted == bound and bound > step_ms - hidden + cost:
        sums += f" (the bound: {wire:.1f} ms on the wire, {compute:.1f} ms of compute)"
    if already and wire:
        part = hidden_now / wire
        text = (
            f"domino already compiled this program: {part:.0%} of {wire:.1f} ms on the wire is "
            f"hidden, {exposed:.1f} of {step_ms:.1f} ms are still exposed. domino explain says why."
        )
        return Recommendation(bound, share, step_ms, 1.0, False, text)
    worth = speedup >= LEAST
    if worth:
        text = f"Worth a trial: {sums}. Measure it with domino poc."
    elif wire == 0:
        text = "Nothing to gain: no collective was in flight during a step."
    else:
        text = f"Little to gain: {sums}. Below {LEAST:.2f}x a trial is not worthwhile."
    return Recommendation(bound, share, predicted, speedup, worth, text)
