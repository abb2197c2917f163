"""How much overlap could gain in a measured step, with the arithmetic behind it.

The planner's prediction for the script's own graphs decides, if the graphs could be planned. The
measured step limits it: no more can be gained than is exposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from domino_compile.ratio import change_text, factor_text
from domino_compile.report import CompileReport
from domino_compile.report.times import together
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
        bound_ms: The best possible step with perfect overlap: the longer of all compute and all
            communication, plus whatever in the step is neither.
        share: Exposed share of the step, the most that overlap can gain.
        predicted_ms: Estimated time of a step with overlap.
        speedup: The current step time over ``predicted_ms``.
        worth: Whether a trial is recommended.
        text: The explanation for the user.
        planned: Whether the planner's prediction for the script's graphs was used.
    """

    bound_ms: float
    share: float
    predicted_ms: float
    speedup: float
    worth: bool
    text: str
    planned: bool = False


def recommend(
    step_ms: float,
    account: Account,
    device: str,
    already: bool,
    plans: Sequence[CompileReport] = (),
) -> Recommendation:
    """Estimate the step with overlap.

    Args:
        step_ms: The measured step time.
        account: How that time is spent.
        device: ``gpu`` or ``cpu``.
        already: Whether this package compiled the measured program.
        plans: What the planner would do with the script's graphs; empty if unknown.
    """
    exposed = min(account.exposed_ms, step_ms)
    share = exposed / step_ms if step_ms else 0.0
    idle = max(0.0, step_ms - account.compute_ms - exposed)
    bound = min(step_ms, max(account.compute_ms, account.wire_ms) + idle)
    if already and account.wire_ms:
        text = (
            f"domino already compiled this program: {account.hidden:.0%} of "
            f"{account.wire_ms:.1f} ms on the wire is hidden, {exposed:.1f} of {step_ms:.1f} ms "
            "are still exposed. domino explain says why."
        )
        return Recommendation(bound, share, step_ms, 1.0, False, text)
    if account.wire_ms == 0:
        text = "Nothing to gain: no collective was in flight during a step."
        return Recommendation(bound, share, step_ms, 1.0, False, text)
    measured = f"{exposed:.1f} of {step_ms:.1f} ms a step are exposed ({share:.0%})"
    if any(report.times for report in plans):
        predicted, why = _by_planner(step_ms, exposed, plans)
    else:
        predicted, why = _by_shares(step_ms, account, device, bound)
    speedup = step_ms / predicted if predicted else 1.0
    worth = speedup >= LEAST
    ends = " Measure it with domino poc." if worth else ""
    head = "Worth a trial" if worth else "Little to gain"
    text = f"{head}: {change_text(step_ms, predicted)} expected. {measured}; {why}.{ends}"
    planned = any(report.times for report in plans)
    return Recommendation(bound, share, predicted, speedup, worth, text, planned)


def _by_planner(
    step_ms: float, exposed: float, plans: Sequence[CompileReport]
) -> tuple[float, str]:
    """Return the expected step and its reason, from the planner's prediction for each graph."""
    known = [report for report in plans if report.times is not None]
    times = together(report.times for report in known if report.times is not None)
    basis = f"device {known[0].device}, link {known[0].link}"
    if times.planned == times.inductor:
        why = next((report.reason for report in known if report.reason), "")
        because = f" ({why})" if why else ""
        return step_ms, f"the planner leaves this program to Inductor alone{because}"
    saved = step_ms * (1 - times.planned.step_us / times.inductor.step_us)
    limited = f", at most what is exposed ({exposed:.1f} ms)" if saved > exposed else ""
    done = " and ".join(dict.fromkeys(_done(report) for report in known))
    factor = factor_text(times.inductor.step_us, times.planned.step_us)
    why = f"the planner predicts {factor} for its graphs ({done}; {basis}){limited}"
    return step_ms - min(saved, exposed), why


def _done(report: CompileReport) -> str:
    return " and ".join(report.cuts()) or {"inductor": "left alone"}.get(
        report.status, report.status
    )


def _by_shares(step_ms: float, account: Account, device: str, bound: float) -> tuple[float, str]:
    """Return the expected step and its reason, from what overlap did to other programs."""
    hidden = HIDDEN * min(account.exposed_ms, step_ms)
    cost = SLICING * account.compute_ms + CONTENTION[device] * hidden
    predicted = max(bound, step_ms - hidden + cost)
    slower = f", {CONTENTION[device]:.0%} slower beside collectives" if CONTENTION[device] else ""
    why = (
        f"hiding {HIDDEN:.0%} of it ({hidden:.1f} ms) and paying {cost:.1f} ms ({SLICING:.0%} of "
        f"{account.compute_ms:.1f} ms of compute for slicing{slower}) leaves "
        f"{step_ms - hidden + cost:.1f} ms; the script's graphs could not be planned"
    )
    if predicted > step_ms - hidden + cost:
        why += (
            f", and the bound is {bound:.1f} ms ({account.wire_ms:.1f} ms on the wire, "
            f"{account.compute_ms:.1f} ms of compute)"
        )
    return predicted, why
