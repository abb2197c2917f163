"""Starts the rank processes of the demo, listens to them, and always ends them.

Each rank leads a separate process group, which includes the compilers it starts. The whole group is
killed when the demo ends for any reason. If the demo disappears, the rank kills its group itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

Event = dict[str, Any]

RANK_PROGRAM = Path(__file__).with_name("_demo_rank.py")
SETTLE_S = 2.0  # a failing rank makes the others fail too: how long to wait for an earlier failure


class RankFailure(Exception):
    """A rank failed or died. One line."""


class Ranks:
    """Rank processes, as a context.

    Args:
        count: how many.
        folder: where the ranks find their configuration and meet.
        logs: receives ``rank_N.log``, with all that a rank prints.
    """

    def __init__(self, count: int, folder: Path, logs: Path) -> None:
        self._count, self._folder, self._logs = count, folder, logs
        self._events: queue.Queue[tuple[int, Event]] = queue.Queue()
        self._processes: list[subprocess.Popen[str]] = []
        self._files: list[IO[str]] = []

    def __enter__(self) -> Ranks:
        try:
            for rank in range(self._count):
                self._start(rank)
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()

    def _start(self, rank: int) -> None:
        log = self._log(rank).open("w")
        self._files.append(log)
        process = subprocess.Popen(
            [sys.executable, str(RANK_PROGRAM), str(rank), str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment(os.environ),
            start_new_session=True,
        )
        self._processes.append(process)
        threading.Thread(target=self._listen, args=(rank, process), daemon=True).start()

    def _listen(self, rank: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                self._events.put((rank, json.loads(line)))
        self._events.put((rank, {"event": "exit", "code": process.wait()}))

    def events(self, tick_s: float) -> Iterator[tuple[int, Event] | None]:
        """What the ranks say until all are done; None whenever ``tick_s`` has passed in silence.

        Raises:
            RankFailure: a rank failed or died.
        """
        running = set(range(self._count))
        while running:
            try:
                rank, event = self._events.get(timeout=tick_s)
            except queue.Empty:
                yield None
                continue
            if event["event"] == "error" or (event["event"] == "exit" and event["code"]):
                raise RankFailure(self._reason(rank, event))
            if event["event"] == "exit":
                running.discard(rank)
            else:
                yield rank, event

    def _reason(self, rank: int, event: Event) -> str:
        """Return the cause: a rank that died, rather than the errors that follow on other ranks."""
        failed = [(rank, event)]
        until = time.monotonic() + SETTLE_S
        while (left := until - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                failed.append(self._events.get(timeout=left))
        died = [(r, e) for r, e in failed if e["event"] == "exit" and e["code"] < 0]
        rank, event = died[0] if died else failed[0]
        if event["event"] == "error":
            what = f"failed: {event['message']}"
        elif event["code"] < 0:
            what = f"was ended by {signal.Signals(-event['code']).name}"
        else:
            what = f"exited with status {event['code']}"
        return f"rank {rank} {what} (see {self._log(rank)})"

    def _log(self, rank: int) -> Path:
        return self._logs / f"rank_{rank}.log"

    def _kill(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
        for file in self._files:
            file.close()


def environment(outer: Mapping[str, str]) -> dict[str, str]:
    """The environment of a rank.

    One thread a rank; gloo on the loopback interface (a host name that leads elsewhere must not
    matter); no cache of compiled graphs, so that domino's passes run and write their dumps; a cache
    of compiled kernels, so that the ranks share them.
    """
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    defaults = {
        "GLOO_SOCKET_IFNAME": loopback,
        "PYTHONWARNINGS": "ignore",
    }
    fixed = {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "0",
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "0",
        "TORCHINDUCTOR_AUTOGRAD_CACHE": "0",
    }
    return defaults | dict(outer) | fixed
