"""Starts ranks on this machine through torchrun, and ends them in any case."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import IO, Any, NoReturn

from domino_compile.errors import DominoError

#: Set for ranks that are started here: rank 0 then writes its progress as lines to stderr.
PROGRESS_LINES = "DOMINO_COMPILE_PROGRESS_LINES"
_PROGRESS = re.compile(r"@progress (\d\.\d+) (.*)")
# torchrun gives its ranks 30 seconds to end before it kills them.
_GRACE_S = 40


def progress_line(text: str, share: float) -> str:
    """Return a line of progress that ``run_ranks`` understands."""
    return f"@progress {share:.4f} {text}"


def end_at_once(code: int) -> NoReturn:
    """End this process after flushing its output, without the interpreter's shutdown.

    Shutdown can wait for threads of a group whose other ranks have failed. A destructor has also
    been seen to abort a rank that had profiled; torchrun then ends the others before they have
    reported their results.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # the reader may be gone
            stream.flush()
    os._exit(code)


class RanksError(DominoError, RuntimeError):
    """A rank failed. The message is one line, with that rank's error."""


def run_ranks(
    count: int,
    arguments: Sequence[str],
    progress: Callable[[str, float], None],
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a program on ``count`` ranks of this machine and return what it prints.

    Args:
        count: The number of ranks.
        arguments: The program for torchrun, such as ``-m domino_compile calibrate``.
        progress: A function that is called with the next piece of work, and the share that is done
            (0 to 1).
        environment: Additional environment variables of the ranks.

    Raises:
        RanksError: A rank failed.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(count), *arguments]
    env = {"OMP_NUM_THREADS": str(max(1, usable_cpus() // count))} | os.environ
    env |= environment or {}
    printed: list[str] = []
    said: deque[str] = deque(maxlen=200)

    def note(line: str) -> None:
        match = _PROGRESS.match(line)
        if match is None:
            said.append(line.strip())
        else:
            progress(match[2], float(match[1]))

    process: subprocess.Popen[str] | None = None
    try:
        with _interrupted_afterwards():  # otherwise nothing would end a new process
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=env | {PROGRESS_LINES: "1"},
                start_new_session=True,  # so that Ctrl-C on the terminal reaches only this process
            )
        listeners = [_listen(process.stdout, printed.append), _listen(process.stderr, note)]
        code = _wait(process)
    finally:
        if process is not None:
            _end(process)
    for listener in listeners:
        listener.join(timeout=5)
    if code:
        raise RanksError(_reason(said, code))
    return "".join(printed)


@contextlib.contextmanager
def _interrupted_afterwards() -> Iterator[None]:
    """Delay signals that end this program, if Python handles them, until the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread
        return
    came: list[tuple[int, FrameType | None]] = []
    handlers: dict[int, Any] = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM)
        if callable(handler := signal.getsignal(number))
    }
    for number in handlers:
        signal.signal(number, lambda *signalled: came.append(signalled))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number, frame in came:
        handlers[number](number, frame)


def _listen(stream: IO[str] | None, take: Callable[[str], None]) -> threading.Thread:
    assert stream is not None

    def pass_on() -> None:
        for line in stream:
            take(line)

    thread = threading.Thread(target=pass_on, daemon=True)
    thread.start()
    return thread


def _wait(process: subprocess.Popen[str]) -> int:
    """Wait in short steps, between which Python handles signals, even those to other threads."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=0.5)


def _end(process: subprocess.Popen[str]) -> None:
    """End torchrun, which ends its ranks."""
    if process.poll() is not None:
        return
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    process.kill()
    process.wait()


def _reason(said: Sequence[str], code: int) -> str:
    """Return the line that a rank failed with, among the many lines that torchrun adds."""
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    if errors:
        return errors[0]
    last = next((line for line in reversed(said) if "Error" in line), "")
    return f"the ranks ended with exit code {code}{': ' if last else ''}{last}"


def usable_cpus() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
