"""Ranks that are started here: what they say is passed on, and none is left behind."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from domino_compile.host import launch
from domino_compile.host.launch import RanksError, progress_line, run_ranks
from tests.paths import ROOT


@pytest.fixture
def torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script that stands in for ``python -m torch.distributed.run``."""
    path = tmp_path / "python"
    path.write_text("")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(launch.sys, "executable", str(path))
    return path


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")


def test_output_progress_and_environment(torchrun: Path) -> None:
    line = progress_line("all_reduce 4 KiB", 0.25)
    script(torchrun, f'echo "{line}" >&2; echo noise >&2; echo "$* $MINE $OMP_NUM_THREADS"')
    said: list[tuple[str, float]] = []
    printed = run_ranks(
        2,
        ["-m", "program", "--json"],
        lambda text, share: said.append((text, share)),
        {"MINE": "set"},
    )
    assert said == [("all_reduce 4 KiB", 0.25)]
    assert "--standalone --nproc-per-node 2 -m program --json set" in printed
    assert printed.split()[-1].isdecimal()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo 'W1 noise' >&2; echo 'error: rank 1: why' >&2; echo E2 >&2; exit 3", "rank 1: why"),
        ("echo 'ChildFailedError: x' >&2; exit 3", "exit code 3: ChildFailedError: x"),
        ("exit 3", "the ranks ended with exit code 3"),
        ("kill -9 $$", "the ranks ended with exit code -9"),
    ],
)
def test_a_failure_is_one_line(torchrun: Path, text: str, message: str) -> None:
    script(torchrun, text)
    with pytest.raises(RanksError) as caught:
        run_ranks(2, [], lambda text, share: None)
    assert message in str(caught.value)


def test_an_interruption_ends_what_was_started(torchrun: Path, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script(torchrun, f"echo $$ > {pid}; exec sleep 600")

    def interrupt() -> None:
        while not (pid.exists() and pid.read_text().strip()):
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_ranks(2, [], lambda text, share: None)
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_an_interruption_while_they_start_ends_them_too(
    torchrun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(torchrun, "exec sleep 600")
    started: list[subprocess.Popen[str]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_ranks(2, [], lambda text, share: None)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert started[0].poll() is not None


@pytest.mark.xdist_group("calibrate")
def test_two_ranks_through_torchrun(tmp_path: Path) -> None:
    """The whole command, as a user starts it."""
    import json

    command = [sys.executable, "-m", "domino_compile", "calibrate", "--ranks", "2", "--json"]
    command += ["--sizes", "4K,64K", "--rounds", "1", "--round-ms", "0.1", "--name", "mine"]
    done = subprocess.run(
        command,
        check=False,
        cwd=ROOT,
        env=os.environ | {"XDG_CONFIG_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("[") for line in done.stderr.splitlines()), done.stderr  # progress
    found = json.loads(done.stdout)
    assert [link["name"] for link in found["links"]] == ["mine"]
    assert found["links"][0]["collectives"]["all_reduce"]["size_bytes"] == [4096, 65536]
    assert Path(found["links"][0]["file"]) == tmp_path / "domino_compile/links/mine.json"
    assert Path(found["rates"]["file"]) == tmp_path / "domino_compile/rates-cpu.json"
    assert all(Path(part["file"]).is_file() for part in (found["links"][0], found["rates"]))
