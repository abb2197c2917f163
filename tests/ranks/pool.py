"""Processes that are the ranks of a gloo group, started once and used for many tests.

    with Pool(2) as pool:
        results = pool.run("tests.ranks.checks:train", "funcol", timeout=60)   # one per rank

A function is sent by its name and runs on every rank as ``function(rank, world, *arguments)``.
When a rank raises, dies or takes too long, `run` raises `RankError` with every rank's traceback
(of a rank that hangs: where it stands); the processes are ended and the next `run` starts others.

A rank was seen once to wait without end for a collective of gloo's that the other rank had finished
(eager code, torch 2.13); why is not known, 800 000 more did not do it. So what hangs is asked once
more, of new ranks, with a warning that tells where the old ones stood: a program that hangs by
itself does so again.
"""

import contextlib
import faulthandler
import importlib
import io
import multiprocessing as mp
import os
import signal
import subprocess
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from datetime import timedelta
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.environment import CACHES

# A rank waits this much longer for the ranks that are behind it than for itself.
_GRACE_S = 5.0
_START_S = 240.0
_GLOO_S = 100.0
#: What gloo says on a rank that waits for one that hangs.
_WAITED = ("Timed out waiting", "Connection closed by peer")

#: What all ranks import: their common parent does it once.
_PRELOAD = (
    "torch._dynamo",
    "torch._inductor.compile_fx",
    "torch.distributed.tensor.parallel",
    "domino_compile.backend",
    "tests.ranks.preload",
)
#: As in all tests, also where pytest did not start the ranks. A fault of ours is an error.
_ENVIRONMENT = CACHES | {
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "DOMINO_COMPILE_STRICT": "1",
}
#: Ranks are compared bit for bit: on a GPU a gradient may otherwise be summed in any order, and
#: each rank times for itself in how many parts a kernel sums.
_ON_GPUS = {"TORCHINDUCTOR_DETERMINISTIC": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for the processes that start inside."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _context() -> Any:
    """How ranks are started: from one process that has all imported, where CUDA allows forks."""
    if os.environ.get("DOMINO_TEST_DEVICE") == "cuda":
        os.environ.update(_ENVIRONMENT | _ON_GPUS)
        return mp.get_context("spawn")
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOAD))
    with _environment(_ENVIRONMENT):
        forkserver.ensure_running()
    return context


class RankError(Exception):
    """What went wrong on each rank."""


class HangError(RankError):
    """Where ranks stood that did not answer in time, while the others at most waited for them."""


class Pool:
    """`size` ranks; see the module's docstring."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._ranks: list[tuple[Any, Connection, Path]] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        self.stop()

    def run(self, name: str, *arguments: object, timeout: float = 120.0) -> list[Any]:
        """Call ``module:function`` on every rank; returns their results.

        Args:
            name: the function, called with rank, world and the arguments.
            arguments: picklable.
            timeout: seconds for all ranks to answer.

        Raises:
            RankError: a rank raised, died or did not answer in time.
        """
        try:
            return self._run((name, arguments), timeout)
        except HangError as hang:
            warnings.warn(f"{name} is asked again\n{hang}", stacklevel=2)
            return self._run((name, arguments), timeout)

    def stop(self) -> None:
        """End the processes."""
        for process, pipe, _ in self._ranks:
            pipe.close()
            process.kill()
            process.join()
        self._ranks = []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _run(self, question: object, timeout: float) -> list[Any]:
        if not self._ranks:
            self._start()
        return self._ask(question, timeout)

    def _start(self) -> None:
        context = _context()
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            stuck = folder / f"stuck_{rank}.txt"
            arguments = (rank, self.size, str(folder / "rendezvous"), str(stuck), theirs)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._ranks.append((process, ours, stuck))
        self._ask(("tests.ranks.pool:ready", ()), _START_S)

    def _ask(self, question: object, timeout: float) -> list[Any]:
        answers: dict[int, Any] = {}
        failed: dict[int, str] = {}
        deadline = time.monotonic() + timeout
        for _, pipe, _ in self._ranks:
            with contextlib.suppress(OSError):
                pipe.send(question)
        while len(answers) + len(failed) < self.size:
            open_ = {
                pipe: rank
                for rank, (_, pipe, _) in enumerate(self._ranks)
                if rank not in answers and rank not in failed
            }
            ready = wait(list(open_), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            for pipe in ready:
                assert isinstance(pipe, Connection)
                self._receive(pipe, open_[pipe], answers, failed)
            if failed:
                deadline = min(deadline, time.monotonic() + _GRACE_S)
        if failed or len(answers) < self.size:
            hangs = len(answers) + len(failed) < self.size and all(map(_waited, failed.values()))
            message = self._describe(answers, failed)
            self.stop()
            raise (HangError if hangs else RankError)(message)
        return [answers[rank] for rank in range(self.size)]

    def _receive(
        self, pipe: Connection, rank: int, answers: dict[int, Any], failed: dict[int, str]
    ) -> None:
        try:
            good, value = pipe.recv()
        except (EOFError, OSError):
            process = self._ranks[rank][0]
            process.join(_GRACE_S)
            failed[rank] = f"died with exit code {process.exitcode}"
            return
        if good:
            answers[rank] = value
        else:
            failed[rank] = value

    def _describe(self, answers: dict[int, Any], failed: dict[int, str]) -> str:
        lines = []
        for rank, (process, _, stuck) in enumerate(self._ranks):
            if rank in answers:
                lines.append(f"rank {rank}: answered")
            elif rank in failed:
                lines.append(f"rank {rank}: {failed[rank]}")
            else:
                os.kill(process.pid, signal.SIGUSR1)
                time.sleep(0.5)
                where = stuck.read_text() if stuck.exists() else ""
                where += _threads(process.pid)
                lines.append(f"rank {rank}: no answer in time; it stands at\n{where}")
        return "\n".join(lines)


def _waited(said: str) -> bool:
    return any(words in said for words in _WAITED)


def _threads(pid: int) -> str:
    """What every thread of a process does outside Python, where gdb is installed."""
    command = ["gdb", "-p", str(pid), "-batch", "-ex", "thread apply all backtrace 12"]
    try:
        said = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60.0)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "\n".join(line for line in said.stdout.splitlines() if line.startswith(("Thread", "#")))


def ready(rank: int, world: int) -> int:
    """The first question to a rank: whether it runs."""
    return rank


def _serve(rank: int, world: int, rendezvous: str, stuck: str, pipe: Connection) -> None:
    """A rank's life: answer questions until the pipe closes."""
    import torch
    import torch.distributed as dist

    with open(stuck, "w") as file:
        faulthandler.register(signal.SIGUSR1, file, all_threads=True)
        torch.set_num_threads(1)
        on_gpus = os.environ.get("DOMINO_TEST_DEVICE") == "cuda"
        if on_gpus:
            torch.cuda.set_device(rank)
            torch.use_deterministic_algorithms(True, warn_only=True)
        dist.init_process_group(
            "nccl" if on_gpus else "gloo",
            init_method=f"file://{rendezvous}",
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=_GLOO_S),
        )
        while True:
            try:
                name, arguments = pipe.recv()
            except EOFError:
                return
            answer = _answer(rank, world, name, arguments)
            with contextlib.suppress(BrokenPipeError):
                pipe.send(answer)


def _answer(rank: int, world: int, name: str, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    import torch

    import domino_compile

    torch._dynamo.reset()
    domino_compile.reset_reports()
    said = io.StringIO()
    try:
        module, function = name.split(":")
        with contextlib.redirect_stdout(said):
            value = getattr(importlib.import_module(module), function)(rank, world, *arguments)
        return True, value
    except BaseException:
        return False, f"{traceback.format_exc()}\n{said.getvalue()}"
