"""A step that hangs is ended with everything that it has started, in whatever session."""

import subprocess
import time
from pathlib import Path

from benchmarks.steps import Machine, descendants

CHILD = "import time; time.sleep(60)"
PARENT = (
    "import subprocess, sys, time; "
    f"subprocess.Popen([sys.executable, '-c', {CHILD!r}], start_new_session=True); time.sleep(60)"
)


def test_a_step_that_takes_too_long_leaves_no_process_behind(tmp_path: Path) -> None:
    machine = Machine("cpu", 2, tmp_path, limit_s=3.0)
    seen: list[int] = []
    real = subprocess.Popen.wait

    def wait(self: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        until = time.monotonic() + 2
        while not seen and time.monotonic() < until:
            seen.extend(descendants(self.pid))
            time.sleep(0.05)
        return real(self, timeout)

    subprocess.Popen.wait = wait  # type: ignore[method-assign,assignment]
    try:
        assert not machine.run("hangs", ["-c", PARENT])
    finally:
        subprocess.Popen.wait = real  # type: ignore[method-assign]
    assert "took more than 3 s" in machine.outcomes[0].problem
    assert len(seen) == 1
    time.sleep(0.2)
    assert not Path(f"/proc/{seen[0]}").exists() or "Z" in status(seen[0])


def status(pid: int) -> str:
    """The state of a process: Z, where it has ended and nobody has asked for its exit code."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_a_step_that_fails_is_named(tmp_path: Path) -> None:
    machine = Machine("cpu", 2, tmp_path, limit_s=30.0)
    assert not machine.run("fails", ["-c", "import sys; sys.exit(3)"])
    assert machine.run("works", ["-c", "print('here')"])
    assert [o.problem for o in machine.outcomes] == ["exit code 3, see fails.log", ""]
    assert (tmp_path / "works.log").read_text() == "here\n"
