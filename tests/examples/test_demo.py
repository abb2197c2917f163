"""The demo as a user runs it: what it leaves behind, and how it ends when something is wrong."""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from domino_compile.tools.timelines import Timeline
from tests.conftest import ROOT

DEMO = ROOT / "examples" / "demo.py"
SIZES = {"layers": 1, "dim": 32, "heads": 4, "batch": 4, "sequence": 16, "steps": 2, "warm-up": 1}
NUMBERS = (
    "step_ms_inductor",
    "step_ms_domino",
    "step_ms_inductor_free_link",
    "step_ratio",
    "wire_ms",
    "exposed_ms",
    "hidden_fraction",
    "wire_ms_inductor",
    "exposed_ms_inductor",
    "hidden_fraction_inductor",
    "loss_difference",
)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("demo")]
linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")


def arguments(out: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        str(DEMO),
        *(f"--{k}={v}" for k, v in SIZES.items()),
        "--out",
        str(out),
        *more,
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder and the outcome of a tiny run."""
    out = tmp_path_factory.mktemp("demo") / "out"
    done = subprocess.run(arguments(out), check=False, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr + "".join(
        log.read_text()[-3000:] for log in out.glob("*.log")
    )
    return out, done


@pytest.fixture(scope="module")
def result(run: tuple[Path, subprocess.CompletedProcess[str]]) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((run[0] / "result.json").read_text())
    return data


def test_result_has_every_key(result: dict[str, Any]) -> None:
    assert result["emulated"] is True and result["link"] == "demo-2"
    assert {key: type(result[key]) for key in NUMBERS} == dict.fromkeys(NUMBERS, float)
    assert 0 <= result["hidden_fraction"] <= 1
    assert result["versions"]["torch"] and result["command"].startswith("python examples/demo.py")


def test_losses_agree(result: dict[str, Any]) -> None:
    assert len(result["loss_inductor"]) == len(result["loss_domino"]) == 3
    assert result["loss_domino"] == pytest.approx(result["loss_inductor"], rel=1e-4)


def test_every_collective_is_listed_and_sliced(result: dict[str, Any]) -> None:
    found = [(c["kind"], c["phase"], c["bytes"], c["action"]) for c in result["collectives"]]
    payload = 4 * 16 * 32 * 4  # batch x sequence x width, float32
    each = [("all_reduce", phase, payload, "sliced") for phase in ("forward", "backward")]
    assert sorted(found) == sorted(2 * each)  # behind attention and behind the MLP
    assert all("_demo_model.py" in c["source"] for c in result["collectives"])
    assert result["launches_inductor"] == 4 and result["launches_domino"] == 8


def test_dumps_exist(run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    for rank in ("rank_0", "rank_1"):
        folder = run[0] / "dumps" / rank / "graph_0"
        assert (folder / "plan.json").exists()
        for phase in ("forward", "backward"):
            assert "launch" in (folder / phase / "09.schedule.txt").read_text()


def test_it_says_what_it_does(run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, done = run
    for text in ("compiling", "step 2/2", "emulated", "Collectives found: 4", str(out / "dumps")):
        assert text in done.stdout, text
    assert done.stderr == ""


def test_timeline_covers_the_step(run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    data = json.loads((run[0] / "timeline.json").read_text())
    inductor, domino = (Timeline.from_dict(one) for one in data)
    for timeline, wires in ((inductor, 4), (domino, 8)):
        assert timeline.measured and timeline.emulated
        assert len([s for s in timeline.spans if s.lane == "wire"]) == wires
        work = [s for s in timeline.spans if s.kind == "compute"]
        total = sum(s.end_us - s.begin_us for s in work)
        assert timeline.compute_us == pytest.approx(total)  # nothing overlaps in the lane
        assert {s.phase for s in work} == {"forward", "backward", "update"}
        spent = [sum(s.end_us - s.begin_us for s in work if s.slice == n) for n in (0, 1)]
        if timeline is inductor:
            assert spent == [0, 0]
        else:  # both slices are seen in the lane
            assert min(spent) > 0
    slices = [s.slice for s in domino.spans if s.lane == "wire"]
    assert slices.count(0) == slices.count(1) == 4
    found = {c["name"] for r in json.loads((run[0] / "rank_0.json").read_text())["reports"]
             for c in r["collectives"]}  # fmt: skip
    assert {s.collective for s in domino.spans if s.lane == "wire"} == {f"0:{n}" for n in found}


def test_the_report_is_a_page(run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, done = run
    text = (out / "report.html").read_text()
    assert 'id="timeline"' in text and 'id="training"' in text and 'id="graphs"' in text
    assert text.count('class="tile') >= 4 and "measured, emulated link" in text
    assert "The link is emulated" in text and str(out / "report.html") in done.stdout


WRONG = [
    (["--link", "demo-3"], "unknown link 'demo-3'; did you mean 'demo-2'"),
    (["--steps", "0"], "--steps must be at least 1, not 0"),
    (["--heads", "3"], "--heads must be divisible by the 2 ranks, not 3"),
    (["--dim", "30"], "--dim must be divisible by --heads: 30 and 4"),
    (["--out", str(DEMO)], "--out: "),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_bad_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wrong: list[str],
    message: str,
) -> None:
    monkeypatch.syspath_prepend(str(DEMO.parent))
    demo = importlib.import_module("demo")
    options = demo.parse(arguments(tmp_path, *wrong)[2:])
    with pytest.raises(SystemExit) as ended:
        demo.prepare(options, Path(options.out))
    assert ended.value.code == 2
    assert_is_one_line(capsys.readouterr().err, message)


def test_bad_input_ends_the_demo(tmp_path: Path) -> None:
    wrong, message = WRONG[0]
    command = arguments(tmp_path, *wrong)
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "starting" not in done.stdout
    assert_is_one_line(done.stderr, message)


def assert_is_one_line(error: str, message: str) -> None:
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@contextlib.contextmanager
def started(
    out: Path, until: str = "compiling"
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A demo that has said ``until``, and its ranks (each leads a process group)."""
    demo = subprocess.Popen(
        arguments(out),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background lets its children ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    ranks: list[int] = []
    try:
        assert demo.stdout is not None
        assert any(until in line for line in demo.stdout)
        ranks = [
            int(x) for x in Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
        ]
        assert len(ranks) == 2
        yield demo, ranks
    finally:
        demo.kill()
        demo.communicate()
        for rank in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(rank, signal.SIGKILL)


def gone(groups: list[int], seconds: float) -> bool:
    """Whether no process of the groups is left; those that are dying get some seconds."""
    end = time.monotonic() + seconds
    while any(alive(group) for group in groups):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def alive(group: int) -> bool:
    """Whether the group has a process that still runs (a zombie does not)."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, owner = stat.read_text().rpartition(")")[2].split()[:3]
            if int(owner) == group and state not in "ZX":
                return True
    return False


@linux
def test_a_dead_rank_ends_the_demo(tmp_path: Path) -> None:
    with started(tmp_path) as (demo, ranks):
        os.kill(ranks[1], signal.SIGKILL)
        error = demo.communicate(timeout=60)[1]
        assert demo.returncode == 1
        assert error == f"error: rank 1 was ended by SIGKILL (see {tmp_path / 'rank_1.log'})\n"
        assert gone(ranks, 5)


# The demo handles both signals alike: one comes while ranks compile, the other while they start.
@linux
@pytest.mark.parametrize(
    ("sent", "until"), [(signal.SIGINT, "compiling"), (signal.SIGTERM, "loading torch")]
)
def test_an_interrupted_demo_leaves_no_process(
    tmp_path: Path, sent: signal.Signals, until: str
) -> None:
    with started(tmp_path, until) as (demo, ranks):
        demo.send_signal(sent)
        error = demo.communicate(timeout=60)[1]
        assert demo.returncode == 130
        assert error == "error: interrupted; the ranks are stopped\n"
        assert gone(ranks, 5)


@linux
def test_ranks_end_when_the_demo_is_killed(tmp_path: Path) -> None:
    with started(tmp_path) as (demo, ranks):
        demo.kill()
        demo.wait()
        assert gone(ranks, 20)
