"""Ranks in network namespaces, each behind a link whose bandwidth and delay can be changed.

::

    rank 0 [eth0] == veth == [port0] \
                                      wire (``benchmarks.wire``, a namespace of its own)
    rank 1 [eth0] == veth == [port1] /

``tc`` limits what leaves a rank's ``eth0``; the wire delays it. A namespace has no name and no
device that leads out of it. It exists as long as a process lives in it, and every process is killed
when this one ends, even if this one is killed itself. So nothing is left behind. The addresses are
those that RFC 5737 reserves for documentation.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from benchmarks.wire import end_name, hardware_address, port_name

ROOT = Path(__file__).resolve().parents[1]
#: The programs that are needed; from the packages iproute2 and util-linux.
PROGRAMS = ("ip", "tc", "unshare", "nsenter", "setpriv")
#: Bytes of a packet. Large ones leave the wire, which is written in Python, time to breathe.
MTU = 9000
#: What a rank may send at once before its rate holds, in seconds of the rate and in packets.
BURST_S, BURST_PACKETS = 1e-3, 2
#: The bytes that may wait in front of a link; TCP slows down before.
QUEUE = 4 << 20
#: How long ``ip`` and ``tc`` may take, and a process to end after it was killed.
COMMAND_S, END_S = 30.0, 10.0


class NetworkError(RuntimeError):
    """A network cannot be made or changed. The message is one line."""


@dataclass(frozen=True)
class Shape:
    """What a link is like.

    Attributes:
        mbit: The bandwidth of what a rank sends, in Mbit/s.
        delay_ms: How long a packet is on its way, in milliseconds.
    """

    mbit: float
    delay_ms: float = 0.0

    def tbf(self) -> list[str]:
        """Return the arguments of ``tc`` for a token bucket with this bandwidth."""
        a_second = self.mbit * 1e6 / 8
        burst = max(a_second * BURST_S, BURST_PACKETS * (MTU + 14))
        text = f"tbf rate {round(self.mbit * 1e6)}bit burst {round(burst)} limit {QUEUE}"
        return text.split()


def why_not() -> str:
    """Return why namespaces cannot be made here; empty if they can. Leaves nothing behind."""
    if not sys.platform.startswith("linux"):
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"{', '.join(missing)} not found (packages iproute2 and util-linux)"
    script = (
        "ip link add veth0 type veth peer name veth1 && ip link set veth0 up &&"
        f" tc qdisc replace dev veth0 root {' '.join(Shape(1.0).tbf())}"
    )
    try:
        tried = subprocess.run(
            ["unshare", "--net", "sh", "-c", script],
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_S,
        )
    except subprocess.TimeoutExpired:
        return f"a namespace could not be made within {COMMAND_S:g} s"
    said = tried.stderr.strip().splitlines()
    return f"no namespace with a shaped veth: {said[0]}" if tried.returncode and said else ""


def ip_address(rank: int) -> str:
    """Return the address of a rank."""
    return f"192.0.2.{rank + 1}"


def start(command: Sequence[str], **settings: Any) -> subprocess.Popen[str]:
    """Start a process that is killed when this one ends, and that Ctrl-C does not reach."""
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command],
        stdin=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        **settings,
    )


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and what it has started, and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(END_S)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


@dataclass
class Network:
    """A context in which namespaces exist and are connected.

    Args:
        ranks: The number of ranks.
        seconds: After this time the network ends by itself.
    """

    ranks: int
    seconds: float = 3600.0
    _holders: list[subprocess.Popen[str]] = field(default_factory=list)
    _programs: list[subprocess.Popen[str]] = field(default_factory=list)
    _wire: subprocess.Popen[str] | None = None

    def __enter__(self) -> Network:
        """Make the namespaces.

        Raises:
            NetworkError: They cannot be made.
        """
        try:
            self._make()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill everything inside, and with it the namespaces."""
        self._end()

    def shape(self, shape: Shape, ranks: Sequence[int] | None = None) -> None:
        """Change what ranks (all by default) can send, and the delay of all links."""
        for rank in range(self.ranks) if ranks is None else ranks:
            self._in(rank, ["tc", "qdisc", "replace", "dev", "eth0", "root", *shape.tbf()])
        self._command({"delay_ms": shape.delay_ms})

    def cut(self, rank: int) -> None:
        """Drop everything that a rank sends or is sent from now on."""
        self._command({"cut": rank})

    def start(
        self, rank: int, command: Sequence[str], env: Mapping[str, str], log: IO[str]
    ) -> subprocess.Popen[str]:
        """Start a rank's program in its namespace, with torchrun's variables.

        Args:
            rank: The rank.
            command: The program and its arguments.
            env: Further environment variables.
            log: The file for its standard error.
        """
        place = {
            "RANK": rank,
            "WORLD_SIZE": self.ranks,
            "LOCAL_RANK": 0,
            "LOCAL_WORLD_SIZE": 1,
            "MASTER_ADDR": ip_address(0),
            "MASTER_PORT": 29500,
            "GLOO_SOCKET_IFNAME": "eth0",
        }
        program = start(
            [*self._enter(rank), *command],
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **env, **{name: str(value) for name, value in place.items()}},
        )
        self._programs.append(program)
        return program

    def end_programs(self) -> None:
        """Kill the programs that were started, and keep the network."""
        while self._programs:
            kill(self._programs.pop())

    def _make(self) -> None:
        for _ in range(self.ranks + 1):  # the last one is the wire's
            holder = ["unshare", "--net", "sh", "-c", f"echo ready; exec sleep {self.seconds:.0f}"]
            self._holders.append(start(holder, stdout=subprocess.PIPE))
            _await_ready(self._holders[-1], "a namespace")
        hub = self.ranks
        for rank in range(self.ranks):
            ends = [port_name(rank), "type", "veth", "peer", "name", end_name(rank)]
            self._in(hub, ["ip", "link", "add", *ends])
            self._in(hub, ["ip", "link", "set", port_name(rank), "mtu", str(MTU), "up"])
        command = [sys.executable, "-m", "benchmarks.wire", str(self.ranks)]
        command += ["--seconds", f"{self.seconds:.0f}"]
        self._wire = start([*self._enter(hub), *command], stdout=subprocess.PIPE)
        _await_ready(self._wire, "the wire")
        for rank in range(self.ranks):
            self._connect(rank)

    def _connect(self, rank: int) -> None:
        pid, end = self._holders[rank].pid, end_name(rank)
        address = hardware_address(rank).hex(":")
        self._in(self.ranks, ["ip", "link", "set", end, "netns", str(pid)])
        self._in(rank, ["ip", "link", "set", end, "name", "eth0", "address", address])
        self._in(rank, ["ip", "address", "add", f"{ip_address(rank)}/24", "dev", "eth0"])
        self._in(rank, ["ip", "link", "set", "eth0", "mtu", str(MTU), "up"])
        self._in(rank, ["ip", "link", "set", "lo", "up"])

    def _enter(self, place: int) -> list[str]:
        return ["nsenter", "--net", "--target", str(self._holders[place].pid), "--"]

    def _in(self, place: int, command: Sequence[str]) -> None:
        """Run a command in a namespace."""
        try:
            done = subprocess.run(
                [*self._enter(place), *command],
                capture_output=True,
                text=True,
                check=False,
                timeout=COMMAND_S,
            )
        except subprocess.TimeoutExpired:
            raise NetworkError(f"{' '.join(command)}: no answer in {COMMAND_S:g} s") from None
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no output"])[0]
            raise NetworkError(f"{' '.join(command)}: {said}")

    def _command(self, command: Mapping[str, Any]) -> None:
        assert self._wire is not None and self._wire.stdin is not None
        try:
            self._wire.stdin.write(json.dumps(command) + "\n")
            self._wire.stdin.flush()
        except OSError:
            raise NetworkError("the wire has ended") from None

    def _end(self) -> None:
        self.end_programs()
        for process in (*filter(None, [self._wire]), *self._holders):
            kill(process)


def _await_ready(process: subprocess.Popen[str], name: str) -> None:
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        raise NetworkError(f"{name} ended at once")
