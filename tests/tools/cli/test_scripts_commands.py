"""``domino profile`` and ``domino poc``: what they measure, print, write and refuse."""

from __future__ import annotations

import html
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from domino_compile.tools.poc.run import LEFT
from domino_compile.tools.profiling.earlier import remove_files, remove_result
from domino_compile.tools.timelines import Timeline
from tests.paths import ROOT
from tests.tools.cli.conftest import Domino

TRAIN = str(ROOT / "tests" / "tools" / "poc" / "train.py")
FEW = ["--steps", "2", "--warmup", "2"]
pytestmark = [
    pytest.mark.xdist_group("scripts"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="these are CPU ranks"),
]


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "domino_compile", *arguments],
        env=os.environ | {"COLUMNS": "80"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def domino_command(*arguments: str) -> tuple[int, str, str]:
    process = start(*arguments)
    out, err = process.communicate(timeout=900)
    return process.returncode, out, err


def timelines(folder: Path) -> dict[str, Timeline]:
    return {
        path.stem: Timeline.from_dict(json.loads(path.read_text()))
        for path in (folder / "timelines").glob("*.json")
    }


def printed_losses(log: Path) -> list[float]:
    lines = log.read_text().splitlines()
    return [float(line.rpartition(" ")[2]) for line in lines if line.startswith("rank")]


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("profile")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    asked = ["-m", "domino_compile", "profile", *FEW, "--traced", "2", "--out", str(out), TRAIN]
    asked[3:3] = ["--html", str(out / "report.html"), "--trace", str(out / "trace.json")]
    done = subprocess.run(
        [sys.executable, *torchrun, *asked, "--micro", "2"],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "80"},
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_profile_of_micro_batches_on_a_real_link(profiled: tuple[Path, str]) -> None:
    data = json.loads((profiled[0] / "result.json").read_text())
    assert data["step_ends"] == "optimizer step" and data["steps"] == 2 and data["ranks"] == 2
    assert data["emulated"] is False and data["link"] == "real" and data["notes"] == []
    assert data["collectives"] == 4  # forward and backward of two micro-batches
    assert list(data["groups"]) == ["0"]
    assert 0 < data["exposed_ms"] <= data["wire_ms"] * 1.001
    assert data["account_from"].startswith("torch's profiler")


def test_one_rank_prints_what_fits_the_width(profiled: tuple[Path, str]) -> None:
    said = [line for line in profiled[1].splitlines() if not line.startswith("rank")]
    text = "\n".join(said)
    assert text.count("real link") == 1 and "exposed" in text and "emulated" not in text
    assert max(len(line) for line in said if TRAIN not in line) <= 80 and "\x1b" not in text


def test_profile_writes_a_timeline_of_every_rank(profiled: tuple[Path, str]) -> None:
    found = timelines(profiled[0])
    assert set(found) == {"measured.rank_0", "measured.rank_1"}
    line = found["measured.rank_1"]
    assert line.rank == 1 and line.measured and not line.emulated
    assert {"gemm", "wait", "all_reduce"} <= {span.kind for span in line.spans}
    assert sum(span.lane == "wire" for span in line.spans) == 4


def test_profile_writes_a_page_and_a_trace(profiled: tuple[Path, str]) -> None:
    text = (profiled[0] / "report.html").read_text()
    advice = json.loads((profiled[0] / "result.json").read_text())["recommendation"]["text"]
    assert advice in html.unescape(text) and 'id="timeline"' in text and 'id="graphs"' not in text
    events = json.loads((profiled[0] / "trace.json").read_text())["traceEvents"]
    assert {event["pid"] for event in events} == {0, 1}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, dict[str, Any], str]:
    out = tmp_path_factory.mktemp("poc")
    asked = ["poc", "--ranks", "2", "--link", "demo-2", *FEW, "--rounds", "1", "--out", str(out)]
    asked += ["--html", str(out / "report.html"), "--png", str(out / "timeline.png")]
    code, said, err = domino_command(*asked, "--slices", "3", "--json", TRAIN, "--micro", "2")
    assert said.startswith("{"), err
    return out, code, json.loads(said), err


def test_poc_compares_both(compared: tuple[Path, int, dict[str, Any], str]) -> None:
    out, code, data, _ = compared
    assert code in (0, 3) and code == data["verdict"]["code"]
    assert json.loads((out / "result.json").read_text()) == data
    assert data["verdict"]["equal"] is True
    assert data["quality"]["loss"]["noise"] is None  # one round
    assert data["emulated"] is True and data["link"] == "demo-2"
    before, after = (data["variants"][name] for name in ("inductor", "domino"))
    assert before["collectives"] == 4 and after["collectives"] == 12
    assert before["losses"] == pytest.approx(after["losses"], rel=1e-4)
    assert "sliced into rows 3+3+2" in data["graphs"][0]
    assert "compiling" in compared[3]  # progress is written as lines if nobody watches
    assert all(v["peak_mib"] > 10 and v["compile_s"] > 0 for v in (before, after))


def test_poc_names_what_was_in_flight(compared: tuple[Path, int, dict[str, Any], str]) -> None:
    found = timelines(compared[0])
    assert set(found) == {f"{v}.rank_{n}" for v in ("inductor", "domino") for n in range(2)}
    assert all(line.emulated for line in found.values())
    flights = [s for s in found["domino.rank_0"].spans if s.lane == "wire"]
    raw = json.loads((compared[0] / "runs" / "0.domino" / "rank_0.json").read_text())
    schedules = raw["measured"]["reports"][0]["schedules"]
    planned = [(s["phase"], w["slice"]) for s in schedules for w in s["wires"]]
    assert [(s.phase, s.slice) for s in flights] == planned * 2 and len(planned) == 6
    uncut = {s.collective for s in found["inductor.rank_0"].spans if s.lane == "wire"}
    assert {s.collective for s in flights} == uncut and len(uncut) == 2


def test_everything_that_poc_wrote_is_known_to_the_next(
    compared: tuple[Path, int, dict[str, Any], str], tmp_path: Path
) -> None:
    out = tmp_path / "poc"
    shutil.copytree(compared[0], out)
    remove_result(out)
    remove_files(out, *LEFT)
    assert {path.name for path in out.iterdir()} == {"report.html", "timeline.png"}


def test_poc_writes_a_page_and_a_picture(
    compared: tuple[Path, int, dict[str, Any], str],
) -> None:
    out, _, data, _ = compared
    text = (out / "report.html").read_text()
    assert data["verdict"]["text"] in html.unescape(text)
    sections = ("timeline", "collectives", "training", "graphs")
    assert all(f'<section id="{name}"' in text for name in sections)
    assert "emulated link demo-2" in text and (out / "timeline.png").stat().st_size > 10_000


def test_losses_are_the_ones_that_the_script_prints(
    compared: tuple[Path, int, dict[str, Any], str],
) -> None:
    assert list((compared[0] / "dumps").rglob("plan.json"))
    for run in ("0.inductor", "0.domino"):
        for rank in range(2):
            folder = compared[0] / "runs" / run
            found = json.loads((folder / f"rank_{rank}.json").read_text())["measured"]
            printed = printed_losses(folder / f"rank_{rank}.log")
            assert found["losses"] == pytest.approx(printed, rel=1e-6) and len(printed) == 7
            assert all(norm > 0 for norm in found["grad_norms"])


def test_a_script_that_fails_is_shown_with_its_traceback(tmp_path: Path) -> None:
    asked = ["profile", "--ranks", "2", *FEW, "--out", str(tmp_path)]
    code, said, err = domino_command(*asked, TRAIN, "--fail-on", "1")
    assert code == 7 and said == ""
    assert "KeyError: 'mine'" in err and f'File "{TRAIN}"' in err and "runpy" not in err
    assert err.splitlines()[-1] == f"error: {TRAIN} ended with exit code 7 on rank 1"


def test_a_profile_that_fails_leaves_the_users_files_and_no_result(tmp_path: Path) -> None:
    for name in ("mine.json", "measured.rank_5.json"):
        (tmp_path / "timelines").mkdir(exist_ok=True)
        (tmp_path / "timelines" / name).write_text("{}")
    (tmp_path / "result.json").write_text('{"schema_version": 1, "kind": "profile"}')
    script = tmp_path / "leaves.py"
    script.write_text("import os\nos._exit(0)")
    code, said, err = domino_command("profile", "--ranks", "2", "--out", str(tmp_path), str(script))
    assert code == 1 and said == ""
    assert f"{script} ended the process of rank 0" in err and "Traceback" not in err
    assert [path.name for path in (tmp_path / "timelines").iterdir()] == ["mine.json"]
    assert not (tmp_path / "result.json").exists()


def test_an_interruption_leaves_no_process_behind(tmp_path: Path) -> None:
    process = start("poc", "--ranks", "2", "--out", str(tmp_path), TRAIN, HERE=str(tmp_path))
    log = tmp_path / "runs" / "0.inductor" / "rank_1.log"
    until = time.monotonic() + 400
    while not log.exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert log.exists() and len(_started_with(str(tmp_path))) >= 3
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=400)
    assert process.returncode == 130 and err.splitlines()[-1] == "error: interrupted"
    said = [line for line in err.splitlines()[:-1] if line]
    assert all(line.startswith("[") for line in said), said  # progress
    until = time.monotonic() + 20
    while _started_with(str(tmp_path)) and time.monotonic() < until:
        time.sleep(0.1)
    assert _started_with(str(tmp_path)) == []


def _started_with(value: str) -> list[int]:
    """The processes that inherited the variable HERE with that value."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"HERE={value}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


NOTHING = {
    "compiled nothing: put": "pass",
    "never ran": "import torch\ntorch.compile(lambda x: x + 1)",
    "did no step": "import torch\ntorch.compile(lambda x: x + 1)(torch.ones(3))",
    "1 steps and ended; 7 are needed": (
        "import torch\nf = torch.compile(lambda x: x + 1)\nf(torch.ones(3))\nf(torch.ones(3))"
    ),
    "no collective in its graphs": (
        "import torch\nf = torch.compile(lambda x: x + 1)\nfor _ in range(9): f(torch.ones(3))"
    ),
}


@pytest.mark.parametrize("message", NOTHING)
def test_a_script_that_says_nothing_is_told_the_next_step(tmp_path: Path, message: str) -> None:
    from domino_compile.tools.profiling.script import Request, run
    from domino_compile.tools.profiling.session import Phases
    from domino_compile.tools.scripts import ScriptError

    torch._dynamo.reset()
    script = tmp_path / "script.py"
    script.write_text(NOTHING[message])
    request = Request(script, phases=Phases(2, 2, 3))
    outcome = run(request)
    with pytest.raises(ScriptError) as caught:
        outcome.check(request)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_inference_script_and_the_code_of_one_that_fails(tmp_path: Path) -> None:
    from domino_compile.tools.profiling.script import Request, run
    from domino_compile.tools.profiling.session import Phases

    torch._dynamo.reset()
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\nf = torch.compile(lambda x: x * 2)\nfor _ in range(99): f(torch.ones(3))"
    )
    outcome = run(Request(script, phases=Phases(2, 3, 2)))
    assert outcome.measured is not None and outcome.measured.step_ends == "graph call"
    assert outcome.measured.outputs == [2.0] * 7 and outcome.measured.losses == [None] * 7
    script.write_text("exit(7)")
    assert run(Request(script)).code == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["poc", "missing.py"], "missing.py: no such file"),
        (["profile", "missing.py"], "missing.py: no such file"),
        (["poc", "--link", "demo2", TRAIN], "did you mean 'demo-2'"),
        (["poc", "--option", "slices", TRAIN], "write name=value"),
        (["poc", "--option", "slice=2", TRAIN], "did you mean 'slices'"),
        (["poc", "--option", "disable=True", TRAIN], "--option disable switches domino off"),
        (["poc", "--slices", "0", TRAIN], "--slices"),
        (["poc", "--steps", "0", TRAIN], "--steps"),
        (["poc", "--ranks", "1", TRAIN], "a single rank does not communicate"),
        (["profile", "--ranks", "1", TRAIN], "a single rank does not communicate"),
        (["poc", "--out", "/proc/nowhere", TRAIN], "--out /proc/nowhere"),
    ],
)
def test_bad_input_is_refused_at_once(
    domino: Domino,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    said = domino(*arguments)
    assert said.code == 2, said.err
    assert said.out == "" and message in said.err and said.err.count("\n") == 1


def test_what_stands_behind_the_script_is_the_scripts(
    domino: Domino, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = []

    def run(plan: object, _progress: object) -> None:
        plans.append(plan)
        raise KeyboardInterrupt

    monkeypatch.setattr("domino_compile.tools.poc.run.run", run)
    out = ["--out", str(tmp_path)]
    said = domino("poc", *out, "--steps", "3", TRAIN, "--epochs", "1", "--steps", "9")
    assert said.code == 130
    (plan,) = plans
    assert plan.arguments == ("--epochs", "1", "--steps", "9")
    assert plan.phases.steps == 3 and plan.processes == 2
    assert f"{TRAIN} gets: --epochs 1 --steps 9\n" in said.err
    assert "warning: --steps went to the script" in said.err
    domino("poc", *out, TRAIN, "--", "--steps", "9")
    assert plans[1].arguments == ("--steps", "9")


@pytest.mark.parametrize("command", ["poc", "profile"])
def test_under_torchrun(
    domino: Domino, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("RANK", "0")
    said = domino(command, "--ranks", "2", "--out", str(tmp_path), TRAIN)
    assert said.code == 2 and "torchrun" in said.err and said.err.count("\n") == 1
