"""The arithmetic of what overlap could gain."""

import pytest

from domino_compile.report import CompileReport, ScheduleReport, Status
from domino_compile.tools.profiling.account import Account, GroupTime
from domino_compile.tools.profiling.measured import RankMeasured, together
from domino_compile.tools.profiling.recommend import HIDDEN, SLICING, recommend


def test_the_arithmetic_is_what_the_text_says() -> None:
    found = recommend(31.0, Account(31.0, 24.0, 6.1, 6.1), "cpu", already=False)
    assert found.share == pytest.approx(6.1 / 31)
    assert found.predicted_ms == pytest.approx(31 - HIDDEN * 6.1 + SLICING * 24)
    assert found.speedup == pytest.approx(31 / found.predicted_ms)
    assert found.worth
    for part in (
        *("6.1 of 31.0 ms a step are exposed", "(5.5 ms)", "leaves 26.7 ms"),
        *("1.16x faster (31.0 -> 26.7 ms)", "domino poc"),
    ):
        assert part in found.text


def test_on_a_gpu_work_is_slower_beside_collectives() -> None:
    account = Account(31.0, 24.0, 6.1, 6.1)
    on_gpu, on_cpu = (recommend(31.0, account, d, False) for d in ("gpu", "cpu"))
    assert on_gpu.predicted_ms == pytest.approx(on_cpu.predicted_ms + 0.3 * HIDDEN * 6.1)
    assert "30% slower beside collectives" in on_gpu.text


def test_no_estimate_is_below_the_bound() -> None:
    """Most of the step is on the wire: the wire's time remains, and so does idle time."""
    found = recommend(20.0, Account(20.0, 4.0, 15.0, 14.0), "cpu", already=False)
    assert found.bound_ms == pytest.approx(15.0 + 2.0)  # 2 ms are neither
    assert found.predicted_ms == found.bound_ms
    assert "the bound" in found.text


@pytest.mark.parametrize(
    ("account", "begins"),
    [
        (Account(10.0, 9.9, 0.1, 0.1), "Little to gain"),
        (Account(10.0, 10.0, 0.0, 0.0), "Nothing to gain"),
    ],
)
def test_little_to_win(account: Account, begins: str) -> None:
    found = recommend(10.0, account, "cpu", already=False)
    assert not found.worth and found.text.startswith(begins)


def test_what_domino_compiled_is_not_recommended_to_itself() -> None:
    found = recommend(10.0, Account(10.0, 9.0, 4.0, 1.0), "cpu", already=True)
    assert not found.worth and "75% of 4.0 ms on the wire is hidden" in found.text


def plan(before_us: float, after_us: float, status: Status = "sliced") -> CompileReport:
    """A plan whose step is predicted to take so long before and after."""

    def schedule(phase: str, us: float) -> ScheduleReport:
        return ScheduleReport(phase, [], [], us, us, 0, 0)

    return CompileReport(
        0,
        device="cpu",
        link="demo-2",
        status=status,
        reason="it does not pay" if status == "inductor" else "",
        slices=["4", "4"] if status == "sliced" else [],
        uncut=schedule("uncut", before_us),
        schedules=[schedule("inference", after_us)],
    )


def test_the_planner_decides() -> None:
    account = Account(100.0, 60.0, 50.0, 40.0)
    found = recommend(100.0, account, "cpu", False, [plan(400, 320)])
    assert found.planned and found.worth and found.predicted_ms == pytest.approx(80)
    assert "1.25x faster (100 -> 80.0 ms)" in found.text and "rows 4+4" in found.text
    assert "device cpu, link demo-2" in found.text


def test_no_more_is_expected_than_is_exposed() -> None:
    account = Account(100.0, 90.0, 50.0, 10.0)
    found = recommend(100.0, account, "cpu", False, [plan(400, 100)])
    assert found.predicted_ms == pytest.approx(90) and "at most what is exposed" in found.text


def test_no_trial_of_what_the_planner_would_leave_alone() -> None:
    account = Account(100.0, 60.0, 50.0, 40.0)
    found = recommend(100.0, account, "cpu", False, [plan(400, 400, "inductor")])
    assert not found.worth and found.predicted_ms == 100
    assert "leaves this program to Inductor alone (it does not pay)" in found.text


def test_the_account_is_one_ranks_and_adds_up() -> None:
    fast, slow = Account(10.0, 7.0, 4.0, 3.0), Account(12.0, 11.0, 4.0, 0.5, 0.5)
    ranks = [RankMeasured(n, 2, step_ms=[a.step_ms], account=a) for n, a in enumerate((fast, slow))]
    found = together(ranks)
    assert found.account == slow and found.account_rank == 1
    assert found.account.rest_ms == pytest.approx(0)


def test_traced_steps_that_are_slower_count_as_parts_of_a_timed_one() -> None:
    account = Account(20.0, 8.0, 14.0, 12.0, 1.0, {"tp": GroupTime(4, 14.0, 12.0)})
    slow = RankMeasured(step_ms=[9.0, 10.0, 11.0], account=account)
    found = together([slow])
    assert found.account == Account(10.0, 4.0, 7.0, 6.0, 0.5, {"tp": GroupTime(4, 7.0, 6.0)})
    assert found.utilisation == 0.4
    timed = RankMeasured(step_ms=[30.0], account=account)
    assert together([timed]).account == account  # never made longer than what was measured
