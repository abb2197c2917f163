"""The steps of ``benchmarks.multi_gpu``: commands with a time limit, each with its own log."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: The time that Python needs to write its threads' stacks.
WRITING_S = 1.0


@dataclass
class Outcome:
    """The outcome of a step: its time, and why it failed if it did."""

    name: str
    seconds: float
    problem: str = ""


@dataclass
class Machine:
    """The environment of the steps.

    Attributes:
        device: ``cuda`` or ``cpu``.
        ranks: the number of ranks.
        out: the folder for results.
        limit_s: the time limit of one step.
        resume: whether existing results are kept.
    """

    device: str
    ranks: int
    out: Path
    limit_s: float
    resume: bool = False
    outcomes: list[Outcome] = field(default_factory=list)

    def run(self, name: str, command: Sequence[str], **environment: str) -> bool:
        """Run a step with its output in ``<name>.log``; return False if it failed."""
        print(f"{name} ...\n", end="", flush=True)  # in one piece, beside other threads
        began, problem = time.monotonic(), ""
        with (self.out / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT,
                env=os.environ | {"PYTHONFAULTHANDLER": "1"} | environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
            try:
                if code := process.wait(self.limit_s):
                    problem = f"exit code {code}, see {name}.log"
            except subprocess.TimeoutExpired:
                problem = f"took more than {self.limit_s:.0f} s, see {name}.log"
            finally:
                end(process)
        self.outcomes.append(Outcome(name, time.monotonic() - began, problem))
        took = f"{time.monotonic() - began:.0f} s"
        print(f"  {name}: {problem or took}\n", end="", flush=True)
        return not problem

    def torchrun(self, ranks: int) -> list[str]:
        """Return the beginning of a command, to be followed by ``domino``'s arguments."""
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        return [*start, "-m", "domino_compile"]


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its descendants, after it and its children have written their stacks.

    torchrun starts its ranks in separate sessions: they outlive its process group, and a rank that
    hangs in a collective keeps its GPU busy for the next step.
    """
    if process.poll() is not None:
        return
    family = descendants(process.pid)
    for pid in [*_children().get(process.pid, ()), process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGABRT)
    time.sleep(WRITING_S)
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return a process's children, their children, and so on."""
    children = _children()
    found = list(children.get(pid, ()))
    for child in found:
        found += children.get(child, ())
    return found


def _children() -> dict[int, list[int]]:
    """Return the children of each process."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            after_name = entry.read_text().rsplit(")", 1)[1].split()
            children.setdefault(int(after_name[1]), []).append(int(entry.parent.name))
    return children
