"""Running somebody's script with its compiles observed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from domino_compile.tools.scripts.observe import Observation, ScriptError, observe

TRAINING = """
import sys
import torch, torch.distributed as dist
from tests.emitted.harness import Model, VOCAB

dist.init_process_group("gloo")
torch.manual_seed(0)
model = torch.compile(Model(1){settings})
optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
print("arguments", sys.argv[1:], "of", dist.get_world_size())
for step in range(1000):
    tokens = torch.randint(0, VOCAB, (4, 8))
    model(tokens, tokens).backward()
    optimiser.step()
    print("step", step)
"""


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def run(folder: Path, text: str, **asked: object) -> Observation:
    script = folder / "script.py"
    script.write_text(text)
    return observe(script, ["--fast"], {}, ranks=4, **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", ["", ", backend='domino', options={'slices': 3}"])
def test_a_training_script_is_ended_when_its_first_step_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: str
) -> None:
    compile_, world = torch.compile, os.environ.get("WORLD_SIZE")
    said: list[str] = []
    found = run(tmp_path, TRAINING.replace("{settings}", settings), progress=said.append)
    assert [text.split(" (")[0] for text in said] == [
        "running the script",
        "planning graph 0",
        "running graph 0",
    ]
    out = capsys.readouterr().out
    assert "arguments ['--fast'] of 4" in out
    assert "step 0" in out and "step 1\n" not in out
    assert found.code == 0 and found.compiles == 1
    assert len(found.explanation.rows) == 4
    assert found.explanation.rows[0].parts == (3 if settings else 1)
    found.check(tmp_path)
    assert torch.compile is compile_ and not dist.is_initialized()
    assert os.environ.get("WORLD_SIZE") == world


def test_a_mesh_may_be_the_first_to_need_a_group(tmp_path: Path) -> None:
    mesh = "from torch.distributed.device_mesh import init_device_mesh\n"
    assert run(tmp_path, f"{mesh}assert init_device_mesh('cpu', (4,)).size() == 4").code == 0


def test_more_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, TRAINING.replace("{settings}", ""), calls=3)
    assert "step 2" in (out := capsys.readouterr().out) and "step 3\n" not in out


def test_a_failing_script_shows_its_own_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(tmp_path, "def work():\n    raise KeyError('mine')\nwork()\n")
    said = capsys.readouterr().err
    assert found.code == 1
    assert said.splitlines()[1].strip().startswith(f'File "{tmp_path / "script.py"}", line 3')
    assert "KeyError: 'mine'" in said and "runpy" not in said


@pytest.mark.parametrize(("text", "code"), [("exit(3)", 3), ("exit()", 0), ("exit('no')", 1)])
def test_exit_codes_are_kept(tmp_path: Path, text: str, code: int) -> None:
    assert run(tmp_path, text).code == code


NOTHING = {
    "compiled nothing: put": "pass",
    "only backend='aot_eager'": "import torch\ntorch.compile(abs, backend='aot_eager')",
    "never ran": "import torch\ntorch.compile(lambda x: x + 1)",
    "no collective in 1 compiled graph": (
        "import torch\ntorch.compile(lambda x: x + 1)(torch.ones(3))"
    ),
}


@pytest.mark.parametrize("message", NOTHING)
def test_a_script_that_says_nothing_is_told_the_next_step(tmp_path: Path, message: str) -> None:
    found = run(tmp_path, NOTHING[message])
    with pytest.raises(ScriptError) as caught:
        found.check(tmp_path / "script.py")
    assert message in str(caught.value) and "\n" not in str(caught.value)


FIRST_CONTACT = {
    "add --ranks N": "import torch.distributed as dist\ndist.init_process_group('gloo')",
    "expects the ranks of torchrun": "import os\nos.environ['LOCAL_RANK']",
    "--link NAME": "raise ValueError('ProcessGroupNCCL is only supported with GPUs, no GPUs')",
    "explain --device H200": "raise AssertionError('Torch not compiled with CUDA enabled')",
    "explain --ranks 3 runs its first rank": (
        "import torch.multiprocessing as mp\nmp.spawn(print, nprocs=3)"
    ),
}


@pytest.mark.parametrize("message", FIRST_CONTACT)
def test_known_errors_are_one_line_with_the_next_step(
    tmp_path: Path,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    script = tmp_path / "script.py"
    script.write_text(FIRST_CONTACT[message])
    with pytest.raises(ScriptError) as caught:
        observe(script, [], {})
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(script) in str(caught.value) and "Traceback" not in capsys.readouterr().err


SPAWNING = """
import torch, torch.distributed as dist, torch.multiprocessing as mp

def rank(number, ranks):
    dist.init_process_group("nccl", rank=number, world_size=ranks)
    print("rank", number, "of", dist.get_world_size())

mp.spawn(rank, (2,), 2)
mp.start_processes(rank, args=(2,), nprocs=2, start_method="fork")
"""


def test_the_first_of_the_ranks_that_a_script_spawns_runs_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, SPAWNING).code == 0
    assert capsys.readouterr().out == "rank 0 of 4\n" * 2


@pytest.mark.parametrize(
    "ending",
    [
        "except BaseException:\n        traceback.print_exc()\n        raise SystemExit(3)",
        "except BaseException as error:\n        print(repr(error))\n        raise",
        "finally:\n        {}['missing']",
    ],
)
def test_a_script_that_is_ended_sees_no_exception_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    text = (
        "import torch, traceback\nf = torch.compile(lambda x: x + 1)\n"
        "for _ in range(3):\n    try:\n        f(torch.ones(3))\n    " + ending + "\n"
    )
    if "finally" in ending:
        text = text.replace("{}['missing']", "_ and {}['missing']")
    found = run(tmp_path, text)
    said = "".join(capsys.readouterr())
    assert found.code == 0 and found.compiles == 1
    assert "Enough" not in said and "KeyError" not in said


def test_a_training_in_a_thread_ends_silently(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "import torch, threading\nf = torch.compile(lambda x: x + 1)\n"
        "def train():\n    for _ in range(9): f(torch.ones(3))\n"
        "t = threading.Thread(target=train)\nt.start()\nt.join()\n"
    )
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # not pytest's
    assert run(tmp_path, text).code == 0
    assert "".join(capsys.readouterr()) == ""


def test_no_such_script(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match="no such file"):
        observe(tmp_path / "missing.py", [], {})


def test_the_command(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(TRAINING.replace("{settings}", ""))
    command = [sys.executable, "-m", "domino_compile", "explain", "--ranks", "4", "--json"]
    done = subprocess.run(
        [*command, "--require", "overlap", str(script)],
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("{") and "step 0" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
