"""The programs of all ranks of a network, and what they say."""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks.changing_rank import Training
from benchmarks.namespaces import Network, NetworkError

Event = dict[str, Any]
#: No program may use more than one thread, and compilers run in the program itself.
THREADS = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}


@dataclass
class Ranks:
    """A context in which every rank of a network trains.

    Args:
        network: The network.
        training: What they train.
        folder: A folder for the files that they read and write.
        env: Further environment variables.
    """

    network: Network
    training: Training
    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    _events: queue.Queue[tuple[int, Event]] = field(default_factory=queue.Queue)
    _programs: list[Any] = field(default_factory=list)
    _logs: list[IO[str]] = field(default_factory=list)

    def __enter__(self) -> Ranks:
        """Start the programs."""
        file = self.folder / "training.json"
        self.training.write(file)
        command = [sys.executable, "-m", "benchmarks.changing_rank", str(file)]
        for rank in range(self.network.ranks):
            log = self.log(rank).open("w")
            self._logs.append(log)
            program = self.network.start(rank, command, {**THREADS, **self.env}, log)
            self._programs.append(program)
            threading.Thread(target=self._listen, args=(rank, program), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the programs that are left."""
        self.network.end_programs()
        for log in self._logs:
            log.close()

    def log(self, rank: int) -> Path:
        """Return the file of a rank's standard error."""
        return self.folder / f"rank_{rank}.log"

    def events(self, seconds: float) -> Iterator[tuple[int, Event]]:
        """Yield what ranks say, with ``exit`` as the last event of each, until all have ended.

        Raises:
            NetworkError: They have not all ended in time.
        """
        until, running = time.monotonic() + seconds, set(range(self.network.ranks))
        while running:
            try:
                rank, event = self._events.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise NetworkError(
                    f"ranks {sorted(running)} have not ended within {seconds:.0f} s"
                ) from None
            if event["event"] == "exit":
                running.discard(rank)
            yield rank, event

    def go_on(self) -> None:
        """Let ranks that wait for this process go on."""
        for program in self._programs:
            program.stdin.write("g")
            program.stdin.flush()

    def _listen(self, rank: int, program: Any) -> None:
        for line in program.stdout:
            self._events.put((rank, json.loads(line)))
        self._events.put((rank, {"event": "exit", "at_s": time.monotonic()}))
