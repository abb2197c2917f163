"""The verdict and the result on made-up measurements: every exit code, every key."""

from __future__ import annotations

import json
import math

import pytest

from domino_compile.tools.poc.quality import Quality, compare
from domino_compile.tools.poc.result import PocResult, PocRun, poc_result
from domino_compile.tools.poc.verdict import DIFFERS, FASTER, NOT_FASTER, Times, decide
from domino_compile.tools.profiling.account import Account, GroupTime
from domino_compile.tools.profiling.measured import RankMeasured

FLOAT32 = 2.0**-23


def quality(value: float) -> Quality:
    found = compare("loss", [[[1.0]]] * 2, [[[value]]], FLOAT32)
    assert found is not None
    return found


def times(step: float, *rounds: float, exposed: float = 1.0) -> Times:
    return Times(step, rounds or (step, step), exposed)


SAME, OTHER = quality(1.0), quality(1.1)


@pytest.mark.parametrize(
    ("baseline", "domino", "qualities", "code"),
    [
        (times(10.0), times(8.0), [SAME], FASTER),
        (times(10.0), times(9.95), [SAME], NOT_FASTER),  # below the least gain
        (times(10.0, 9.0, 11.0), times(9.0), [SAME], NOT_FASTER),  # below the rounds' spread
        (times(10.0), times(12.0), [SAME], NOT_FASTER),
        (times(10.0), times(8.0), [SAME, OTHER], DIFFERS),
        (times(10.0), times(12.0), [OTHER], DIFFERS),
        (times(10.0), times(8.0), [], FASTER),
    ],
)
def test_exit_codes(baseline: Times, domino: Times, qualities: list[Quality], code: int) -> None:
    found = decide(baseline, domino, qualities)
    assert found.code == code
    assert (code == FASTER) == (found.faster and found.equal)


def test_the_paragraph_has_the_arithmetic() -> None:
    found = decide(times(10.0, 9.9, 10.1, exposed=3.0), times(8.0, exposed=0.2), [OTHER], "demo-2")
    for part in (
        "Training differs: 1.25x faster (10.0 -> 8.00 ms) a step",
        "differ by 2.0%",
        "3.0 ms before, 0.2 ms with domino",
        "differ by at most 1.0e-01",
        "the baseline's own runs by nothing), more than rounding (1.2e-04)",
        "emulated (demo-2)",
    ):
        assert part in found.text
    assert "emulated" not in decide(times(10.0), times(8.0), [SAME]).text
    assert "more --steps" in decide(times(10.0), times(9.95), [SAME]).text
    assert "more --steps" not in decide(times(10.0), times(11.0), [SAME]).text
    assert "bit for bit" in decide(times(10.0), times(8.0), [SAME]).text
    assert "could be compared" in decide(times(10.0), times(8.0), []).text


def curves(baseline: list[float | None], domino: list[float | None]) -> Quality:
    found = compare("loss", [[baseline]] * 2, [[domino]] * 2, FLOAT32)
    assert found is not None
    return found


def test_what_is_not_finite_is_said() -> None:
    nan = math.nan
    broken, twice = curves([1.0, nan], [1.0, nan]), curves([nan, nan, 1.0], [nan, nan, 1.0])
    found = decide(times(10.0), times(8.0), [SAME, broken])
    assert found.code == DIFFERS and not found.equal and "Training differs" not in found.text
    assert found.text.startswith("Training is not finite, with and without domino")
    assert "not finite at 1 step, the last among them, of both programs" in found.text
    assert decide(times(10.0), times(8.0), [broken, OTHER]).text.startswith("Training differs")
    found = decide(times(10.0), times(8.0), [twice])
    assert found.code == FASTER
    assert "bit for bit (but at 2 steps, where they are not finite in both" in found.text


def test_what_one_alone_has_is_said() -> None:
    found = decide(times(10.0), times(8.0), [curves([1.0, 2.0], [1.0, None])])
    assert found.code == DIFFERS and found.text.startswith("Training differs")
    assert "without bound: at step 1 one is missing" in found.text and "inf" not in found.text
    rounds = compare("loss", [[[1.0]], [[math.nan]]], [[[1.0]]], FLOAT32)
    assert rounds is not None
    text = decide(times(10.0), times(8.0), [rounds]).text
    assert "the baseline's own runs without bound" in text


def rank(number: int, step: float, loss: float, link: str = "") -> RankMeasured:
    account = Account(step, step - 2, 3.0, 2.0, groups={"0": GroupTime(4, 3.0, 2.0)})
    return RankMeasured(
        number,
        2,
        link=link,
        step_ms=[step, step + 1, step],
        losses=[loss, loss],
        grad_norms=[1.0, 2.0],
        outputs=[None, None],
        account=account,
        peak_mib=100.0 + number,
        compile_s=5.0,
        precision=FLOAT32,
    )


def result(domino_loss: float = 1.0, link: str = "") -> PocResult:
    runs = [
        PocRun(name, number, tuple(rank(n, step + n, loss, link) for n in range(2)))
        for number in range(2)
        for name, step, loss in (("inductor", 10.0, 1.0), ("domino", 8.0, domino_loss))
    ]
    return poc_result(runs, "train.py", {"seed": 0, "rounds": 2, "warmup": 1, "steps": 3})


def test_the_slowest_rank_counts() -> None:
    found = result().variants["inductor"]
    assert found.numbers.step_ms == (11.0, 12.0, 11.0) * 2
    assert found.numbers.peak_mib == 101.0 and found.round_ms == (11.0, 11.0)


def test_keys_of_the_json() -> None:
    data = json.loads(result().to_json())
    assert set(data) == {
        "schema_version", "kind", "script", "seed", "rounds", "warmup", "steps", "ranks", "device",
        "link", "emulated", "step_ends", "account_from", "peak_of", "step_ratio", "speedup",
        "variants", "quality", "graphs", "verdict", "notes",
    }  # fmt: skip
    assert set(data["variants"]["domino"]) == {
        "step_ms", "quartiles_ms", "total_ms", "all_step_ms", "utilisation", "compute_ms",
        "wire_ms", "exposed_ms", "hidden_ms", "late_ms", "rest_ms", "account_rank", "collectives",
        "groups", "peak_mib", "compile_s", "round_step_ms", "losses", "grad_norms",
    }  # fmt: skip
    assert data["kind"] == "poc" and data["emulated"] is False and data["link"] == "real"
    assert set(data["quality"]) == {"loss", "grad_norm"}
    assert data["verdict"]["code"] == 0 and data["speedup"] == pytest.approx(11 / 9, abs=1e-3)


def test_an_emulated_link_is_labelled() -> None:
    found = result(link="demo-2")
    assert found.as_dict()["emulated"] is True and "emulated (demo-2)" in found.verdict.text


def test_numbers_that_are_not_finite_are_null_in_json() -> None:
    text = result(float("nan")).to_json()
    data = json.loads(text)
    assert "NaN" not in text and "Infinity" not in text
    assert data["quality"]["loss"]["difference"] is None and data["verdict"]["code"] == DIFFERS
    assert data["variants"]["domino"]["losses"] == [None, None]


def test_another_loss_is_found_in_the_runs() -> None:
    found = result(1.01)
    assert found.verdict.code == DIFFERS and found.verdict.equal is False
