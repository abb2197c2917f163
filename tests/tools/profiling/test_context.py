"""``domino_compile.profile`` around a loop of one's own, and the data that comes of it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

import domino_compile
from domino_compile.tools.profiling.measured import RankMeasured, measured
from domino_compile.tools.profiling.session import Phases, Session
from domino_compile.tools.scripts.steps import Facts
from domino_compile.tools.timelines import Timeline


def train(p: domino_compile.profile, steps: int) -> None:
    net = torch.nn.Linear(8, 8)
    for _ in range(steps):
        net(torch.randn(4, 8)).sum().backward()
        p.step()


def test_a_loop_of_ones_own() -> None:
    with domino_compile.profile(steps=3, warmup=1, traced=2) as p:
        train(p, 20)
    assert p.done
    data = p.result.as_dict()
    assert data["schema_version"] == 1 and data["kind"] == "profile"
    assert data["steps"] == len(data["all_step_ms"]) == 3 and data["ranks"] == 1
    assert data["emulated"] is False and data["link"] == "real"
    assert data["collectives"] == 0 and data["exposed_ms"] == 0
    assert data["utilisation"] == 1.0  # nothing to wait for
    assert data["recommendation"]["text"].startswith("Nothing to gain")
    assert json.loads(p.result.to_json()) == data
    (line,) = p.result.timelines
    assert line.measured and Timeline.from_dict(line.as_dict()) == line
    assert any(span.kind == "gemm" for span in line.spans)
    assert "computing 100%" in str(p.result)


def test_too_few_steps_say_how_many_are_needed() -> None:
    with (
        pytest.raises(domino_compile.ProfileError, match=r"5 steps were seen and 17 are needed"),
        domino_compile.profile() as p,
    ):
        train(p, 5)


def test_an_error_in_the_block_is_the_users_own() -> None:
    with pytest.raises(KeyError, match="mine"), domino_compile.profile(steps=1, warmup=1) as p:
        train(p, 2)
        raise KeyError("mine")
    with pytest.raises(domino_compile.ProfileError, match="before the with block has ended"):
        _ = p.result


def test_bad_numbers_of_steps() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        domino_compile.profile(steps=0)


def test_phases_follow_each_other() -> None:
    said: list[str] = []
    finished: list[int] = []
    session = Session(
        Phases(2, 3, 2), lambda: finished.append(1), lambda text, share: said.append(text)
    )
    for number in range(10):
        session.ended(Facts(losses=[torch.tensor(float(number)), torch.tensor(number + 1.0)]))
    assert [text.rpartition(" ")[2] for text in said] == ["warm-up"] * 2 + ["timed"] * 3 + [
        "traced"
    ] * 2
    assert finished == [1] and len(session.step_ms) == 3 and len(session.traces) == 2
    found = measured(session, "t", 1, 2, "")
    assert found.losses == [n + 0.5 for n in range(7)]
    assert len(found.traced_ms) == 1  # the first is dropped
    assert found.peak_mib is not None and found.peak_mib > 1
    again = RankMeasured.from_dict(json.loads(json.dumps(found.as_dict())))
    assert again == found


def test_a_restart_forgets_the_steps_so_far() -> None:
    session = Session(Phases(1, 1, 1))
    for _ in range(2):
        session.ended()
    session.restarted()  # in the middle of tracing
    assert session.facts == [] and session.step_ms == [] and not session.done
    for _ in range(3):
        session.ended()
    assert session.done and len(session.traces) == 1


def test_a_profiler_of_the_scripts_own_leaves_the_times() -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        session = Session(Phases(1, 2, 1))
        for _ in range(4):
            session.ended()
    assert len(session.step_ms) == 2 and session.traces == []


def test_the_package_stays_light() -> None:
    program = (
        "import sys, domino_compile; domino_compile.profile and 0; print('torch' in sys.modules)"
    )
    light = "import sys, domino_compile; print('torch' in sys.modules)"
    for text, loaded in ((light, "False"), (program, "True")):
        done = subprocess.run(
            [sys.executable, "-c", text], check=True, capture_output=True, text=True, timeout=400
        )
        assert done.stdout.strip() == loaded
