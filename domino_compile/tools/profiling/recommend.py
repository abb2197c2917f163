"""What overlap could win of a measured step, with its arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from domino_compile.tools.profiling.account import Account

#: Part of what is exposed that gets hidden: 93 % and 97 % in BENCHMARKS.md, and the last
#: collective of a step has nothing behind it.
HIDDEN = 0.90
#: More computing because work is cut into smaller pieces: 5 % in BENCHMARKS.md.
SLICING = 0.05
#: How much slower work is beside a collective, as a part of the hidden time: collectives take
#: multiprocessors and bandwidth (BENCHMARKS.md: products take 2 ms more beside 6.5 ms of flight).
#: On an emulated link between CPU ranks nobody works for a flight; gloo itself was not measured.
CONTENTION = {"gpu": 0.30, "cpu": 0.0}
#: Below this gain the estimate is worth no trial: it is as rough as that.
LEAST = 1.03


@dataclass(frozen=True)
class Recommendation:
    """An estimate; times in milliseconds.

    Attributes:
        bound_ms: no overlap gets below this: the longer of all computing and all communication,
            with whatever of the step is neither.
        share: part of the step that is exposed, the most that overlap can win.
        predicted_ms: the step as estimated.
        speedup: the step now over that.
        worth: whether it is worth a trial.
        text: why, for a person.
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
        step_ms: the step as it is timed.
        account: what it is spent on.
        device: ``gpu`` or ``cpu``.
        already: whether this package compiled what was measured.
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
            f"domino compiled this already: {part:.0%} of {wire:.1f} ms on the wire is hidden, "
            f"{exposed:.1f} ms of {step_ms:.1f} ms are still exposed. domino explain says why."
        )
        return Recommendation(bound, share, step_ms, 1.0, False, text)
    worth = speedup >= LEAST
    if worth:
        text = f"Try it: {sums}. Next: domino poc measures it."
    elif wire == 0:
        text = "Nothing to win: no collective was in flight in a step."
    else:
        text = f"Little to win: {sums}, and {LEAST:.2f}x is the least that is worth a trial."
    return Recommendation(bound, share, predicted, speedup, worth, text)
