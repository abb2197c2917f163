"""The wire between network namespaces: it passes frames on, some time later.

    python -m benchmarks.wire 2        (in a namespace of its own: ``benchmarks.namespaces``)

The kernel limits the bandwidth (``tc``). Its queueing discipline for delays (netem) is missing from
many kernels, so this process delays instead: it takes every frame that arrives at a port, keeps it
for a while, and sends it out of the port that it is addressed to. It can also drop all frames of a
port, like a pulled cable.

Commands are lines of JSON on the standard input: ``{"delay_ms": 5}``, ``{"cut": 1}``. The process
ends with its input, or when its time or its number of bytes is used up.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import select
import socket
import struct
import time
from collections import deque
from dataclasses import dataclass, field

#: From the kernel's headers if_ether.h, socket.h, if_packet.h, sockios.h and ethtool.h.
ETH_P_ALL, SOL_PACKET, PACKET_IGNORE_OUTGOING = 0x0003, 263, 23
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17
#: More bytes than any frame has; packets have at most ``benchmarks.namespaces.MTU``.
FRAME = 1 << 14
#: The most frames that are read from one port before another port has its turn.
TURN = 64


def port_name(rank: int) -> str:
    """Return the name of a rank's port in the namespace of the wire."""
    return f"port{rank}"


def end_name(rank: int) -> str:
    """Return the name that the other end of a port has before it moves to its rank."""
    return f"end{rank}"


def hardware_address(rank: int) -> bytes:
    """Return the address of a rank's device: locally administered, with the rank at the end."""
    return bytes((2, 0, 0, 0, 0, rank))


def compute_checksums(device: str) -> None:
    """Make the kernel compute checksums and cut segments before frames leave a device.

    By default a veth pair leaves both out. The frames of this process would then be dropped.
    """
    value = (ctypes.c_uint32 * 2)(ETHTOOL_STXCSUM, 0)
    request = struct.pack("16sP", device.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCETHTOOL, request.ljust(40, b"\0"))


def destinations(frame: bytes, source: int, ranks: int) -> list[int]:
    """Return the ports that a frame goes to: its rank's, or all others for a broadcast."""
    if frame[0] & 1:
        return [rank for rank in range(ranks) if rank != source]
    known = frame[:5] == hardware_address(0)[:5] and frame[5] < ranks
    return [frame[5]] if known and frame[5] != source else []


@dataclass
class Wire:
    """Frames on their way, and where they may not go.

    Attributes:
        ranks: The number of ports.
        delay_s: How long a frame is on its way.
        cut: The ranks whose frames are dropped, in both directions.
    """

    ranks: int
    delay_s: float = 0.0
    cut: set[int] = field(default_factory=set)
    _frames: deque[tuple[float, int, bytes]] = field(default_factory=deque)

    def take(self, now: float, source: int, frame: bytes) -> None:
        """Accept a frame from a port. Frames never overtake one another."""
        due = now + self.delay_s
        if self._frames:
            due = max(due, self._frames[-1][0])
        for rank in destinations(frame, source, self.ranks):
            if source not in self.cut and rank not in self.cut:
                self._frames.append((due, rank, frame))

    def due(self, now: float) -> list[tuple[int, bytes]]:
        """Remove and return the frames that have arrived, each with its port."""
        arrived = []
        while self._frames and self._frames[0][0] <= now:
            _, rank, frame = self._frames.popleft()
            if rank not in self.cut:
                arrived.append((rank, frame))
        return arrived

    def wait_s(self, now: float, most: float) -> float:
        """Return the seconds until the next frame arrives, at most ``most``."""
        return min(most, max(0.0, self._frames[0][0] - now)) if self._frames else most

    def obey(self, line: str) -> None:
        """Follow a command."""
        command = json.loads(line)
        self.delay_s = command.get("delay_ms", self.delay_s * 1e3) / 1e3
        if "cut" in command:
            self.cut.add(command["cut"])


def open_port(rank: int) -> socket.socket:
    """Return a raw socket that receives and sends the frames of a port."""
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    port.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    port.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
    port.bind((port_name(rank), 0))
    port.setblocking(False)
    return port


def carry(wire: Wire, seconds: float, most_bytes: int) -> None:
    """Carry frames until the standard input, the time or the bytes end."""
    ports = [open_port(rank) for rank in range(wire.ranks)]
    numbers = {port.fileno(): rank for rank, port in enumerate(ports)}
    until, carried = time.monotonic() + seconds, 0
    print("ready", flush=True)
    while (now := time.monotonic()) < until and carried < most_bytes:
        readable, _, _ = select.select([0, *numbers], [], [], wire.wait_s(now, 1.0))
        for rank in (numbers[file] for file in readable if file in numbers):
            with contextlib.suppress(BlockingIOError):
                for _ in range(TURN):
                    wire.take(time.monotonic(), rank, ports[rank].recv(FRAME))
        for rank, frame in wire.due(time.monotonic()):
            with contextlib.suppress(OSError):  # a full queue drops frames, as switches do
                carried += ports[rank].send(frame)
        if 0 in readable:
            if not (lines := os.read(0, 4096).decode()):
                return
            for line in lines.splitlines():
                wire.obey(line)


def main() -> None:
    """Prepare the ends of the ports, say ``ready``, and carry frames."""
    parser = argparse.ArgumentParser(description="Pass frames between network namespaces.")
    parser.add_argument("ranks", type=int)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--most-bytes", type=int, default=64 << 30)
    chosen = parser.parse_args()
    for rank in range(chosen.ranks):
        compute_checksums(end_name(rank))
        compute_checksums(port_name(rank))
    carry(Wire(chosen.ranks), chosen.seconds, chosen.most_bytes)


if __name__ == "__main__":
    main()
