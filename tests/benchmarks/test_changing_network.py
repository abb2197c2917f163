"""A network that changes: the wire and the summary, and a tiny training in real namespaces."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.changing_network import (
    DEAD,
    LIMIT_S,
    PHASES,
    PLAN,
    STEP,
    TINY,
    TINY_FAST,
    TINY_SLOW,
    changes,
    let_die,
    made_up_table,
    problems,
    tables,
    train,
)
from benchmarks.changing_rank import KEPT, UNCUT, WATCHED
from benchmarks.changing_summary import Phase, Span, furthest, quartiles, replans, rows, spans
from benchmarks.namespaces import MTU, Network, Shape, why_not
from benchmarks.page import PAGE, RESULTS
from benchmarks.wire import Wire, destinations, hardware_address
from domino_compile.links import parse_link
from tests.paths import ROOT

BROADCAST = b"\xff" * 6


def frame(to: bytes, content: bytes = b"") -> bytes:
    return to + hardware_address(0) + content


# -- the wire --------------------------------------------------------------------------------------


def test_frames_go_to_their_rank_and_broadcasts_to_all_others() -> None:
    assert destinations(frame(hardware_address(2)), 0, 3) == [2]
    assert destinations(frame(BROADCAST), 1, 3) == [0, 2]
    for nowhere in (hardware_address(3), hardware_address(0), bytes((4, 0, 0, 0, 0, 1))):
        assert destinations(frame(nowhere), 0, 3) == []


def test_frames_arrive_after_the_delay_in_their_order() -> None:
    wire = Wire(2, delay_s=1.0)
    first, second = (frame(hardware_address(1), word) for word in (b"first", b"second"))
    wire.take(10.0, 0, first)
    wire.obey('{"delay_ms": 200}')
    wire.take(10.1, 0, second)  # would overtake the first one
    assert wire.due(10.9) == [] and wire.wait_s(10.9, 5.0) == pytest.approx(0.1)
    assert wire.due(11.0) == [(1, first), (1, second)]
    assert wire.wait_s(11.0, 5.0) == 5.0


def test_a_cut_link_loses_frames_in_both_directions_and_on_their_way() -> None:
    wire = Wire(3, delay_s=1.0)
    wire.take(0.0, 0, frame(hardware_address(1)))
    wire.obey('{"cut": 1}')
    wire.take(0.0, 1, frame(hardware_address(0)))
    wire.take(0.0, 2, frame(BROADCAST))
    assert wire.due(2.0) == [(0, frame(BROADCAST))]
    assert wire.delay_s == 1.0


def test_a_link_lets_whole_packets_through_at_any_rate() -> None:
    slow, fast = (Shape(mbit).tbf() for mbit in (1.0, 8000.0))
    assert slow[:3] == ["tbf", "rate", "1000000bit"] and fast[2] == "8000000000bit"
    assert int(slow[slow.index("burst") + 1]) >= 2 * MTU
    assert int(fast[fast.index("burst") + 1]) == 1_000_000  # a millisecond


# -- the summary -----------------------------------------------------------------------------------


def step(variant: str, number: int, ms: float, slower: float | None = None) -> dict[str, Any]:
    plans = [] if slower is None else [{"slower": slower, "summary": f"for {slower}"}]
    return {"variant": variant, "step": number, "ms": ms, "plans": plans}


TWO = (Phase("before", Shape(8.0), 6), Phase("slower", Shape(1.0, 2.0), 12))


def training_steps() -> list[dict[str, Any]]:
    """The link becomes slower with step 6, which is planned for in step 11."""
    made = {0: 1.0, 11: 8.0}
    watched = [step(WATCHED, n, 10.0 if n < 6 else 80.0 - n, made.get(n)) for n in range(18)]
    kept = [step(KEPT, n, 20.0 if n < 6 else 90.0) for n in range(18)]
    return [*watched, *kept, *(step(UNCUT, n, 1.0) for n in range(18))]


def test_steps_are_divided_by_phase_and_plan() -> None:
    # with a probe in every third step; without the first two steps of a plan and of a phase
    assert spans(TWO, training_steps(), 3) == [
        Span("before", 1.0, [3, 4]),
        Span("slower", 1.0, [9, 10]),
        Span("slower", 8.0, [13, 15, 16]),
    ]
    assert replans(training_steps())[1] == {
        "step": 11,
        "slower": 8.0,
        "plan": "for 8.0",
        "seconds": 0.07,
    }


def test_each_row_compares_the_same_steps_of_both_variants() -> None:
    found = rows(TWO, training_steps(), 3)
    assert [(row["phase"], row["planned_for"], row["steps"]) for row in found] == [
        ("before", 1.0, 2),
        ("slower", 1.0, 2),
        ("slower", 8.0, 3),
    ]
    assert found[2]["watched_ms"] == quartiles([67.0, 65.0, 64.0]) == [64.5, 65.0, 66.0]
    assert found[2]["kept_ms"] == [90.0] * 3
    assert (found[2]["mbit"], found[2]["delay_ms"]) == (1.0, 2.0)


def test_losses_are_compared_with_the_uncut_programs() -> None:
    losses = {UNCUT: [2.0, 4.0], WATCHED: [2.0, 4.4], KEPT: [2.0, 4.0]}
    assert furthest(losses) == {WATCHED: pytest.approx(0.1), KEPT: 0.0}


def test_the_network_changes_after_the_last_step_of_a_phase() -> None:
    assert changes(TWO) == {5: TWO[1]}
    first, second = PHASES[0].steps, PHASES[0].steps + PHASES[1].steps
    assert changes(PHASES) == {first - 1: PHASES[1], second - 1: PHASES[2]}


def result(**changed: Any) -> dict[str, Any]:
    ends = [{"rank": 0, "after_s": 20.0, "error": "RankMismatchError: "}]
    good = {
        "losses_off": {WATCHED: 1e-7},
        "replans": [{}, {}, {}],
        "dead_links": [{"moment": STEP, "others": ends}],
    }
    return good | changed


def test_a_good_result_has_no_problems() -> None:
    assert problems(result()) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"losses_off": {WATCHED: 1e-2}}, "losses of watched differ"),
        ({"losses_off": {WATCHED: float("nan")}}, "losses of watched differ"),
        ({"replans": [{}, {}]}, "did not follow"),
        ({"dead_links": [{"moment": PLAN, "others": [{"rank": 1, "after_s": None}]}]}, "1 hangs"),
        ({"dead_links": [{"moment": PLAN, "others": [{"rank": 1, "after_s": 31.0}]}]}, "1 hangs"),
    ],
)
def test_what_is_wrong_is_said(changed: dict[str, Any], said: str) -> None:
    (problem,) = problems(result(**changed))
    assert said in problem


def test_the_made_up_table_is_a_table() -> None:
    assert parse_link(made_up_table(3), "made up").time_us("all_reduce", 1) > 0


# -- real namespaces -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def namespaces() -> None:
    if reason := why_not():
        pytest.skip(reason)


@pytest.mark.slow
def test_a_plan_follows_the_network_and_losses_do_not_change(
    namespaces: None, tmp_path: Path
) -> None:
    """Only one rank's link becomes slower.

    How soon that is noticed depends on how busy this machine is, but it is slow for certain.
    """
    link = tmp_path / "link.json"
    link.write_text(json.dumps(made_up_table(2)))
    phases = (Phase("before", TINY_FAST, 2), Phase("slower", TINY_SLOW, 14, ranks=(1,)))
    with Network(2) as network:
        training = replace(TINY, link=str(link), steps=16)
        found = train(network, training, phases, tmp_path, {})
    assert found["losses_off"][WATCHED] < 1e-12
    # each way takes 5 ms, an all-reduce has two, and the table says 2.3 ms; and 6 KiB at 1 Mbit/s
    # take 49 ms
    assert found["replans"][-1]["slower"] >= 4.0


@pytest.mark.slow
def test_a_dead_link_is_an_error_on_the_other_rank(namespaces: None, tmp_path: Path) -> None:
    found = let_die(2, 1, STEP, replace(TINY, timeout_s=10.0), tmp_path)
    (other,) = found["others"]
    assert other["after_s"] is not None and 0 < other["after_s"] < LIMIT_S
    # gloo says either, by what it waits for when the time is up.
    assert re.search(r"timed out|timeout", other["error"], re.IGNORECASE)


HOLDING = """
import time
from benchmarks.namespaces import Network
with Network(2, seconds=300) as network:
    print(*(process.pid for process in (*network._holders, network._wire)), flush=True)
    time.sleep(300)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind(namespaces: None, sent: signal.Signals) -> None:
    before = devices()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDING]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env)
    assert program.stdout is not None
    inside = [int(pid) for pid in program.stdout.readline().split()]
    assert len(inside) == 4 and len(alive(inside)) == 4
    assert devices() == before  # all are inside the namespaces
    program.send_signal(sent)
    program.wait(30)
    program.stdout.close()
    until = time.monotonic() + 30
    while alive(inside) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(inside) and devices() == before


def alive(pids: Sequence[int]) -> list[int]:
    """The processes that run; one that has ended may wait for its parent."""
    states = {pid: Path(f"/proc/{pid}/stat") for pid in pids}
    found = []
    for pid, file in states.items():
        try:
            if file.read_text().rpartition(")")[2].split()[0] not in "ZX":
                found.append(pid)
        except OSError:
            continue
    return found


def devices() -> set[str]:
    """The network devices outside the namespaces, and the named namespaces."""
    named = Path("/run/netns")
    return {*os.listdir("/sys/class/net"), *(os.listdir(named) if named.is_dir() else ())}


def test_one_line_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert why_not() == "network namespaces need root"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "")
    assert why_not().startswith("ip, tc, unshare, nsenter, setpriv not found")


# -- what is published -----------------------------------------------------------------------------


def test_the_published_result_is_good_and_is_the_pages() -> None:
    found = json.loads((RESULTS / "changing_network.json").read_text())
    assert problems(found) == [] and found["measured"] == "gloo, shaped veth"
    assert len(found["dead_links"]) == len(DEAD)
    assert tables(found) in PAGE.read_text()
