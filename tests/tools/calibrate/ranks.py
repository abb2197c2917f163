"""Calibrations on forked ranks, for the tests.

``python -m tests.tools.calibrate.ranks FOLDER`` runs each of ``SCENARIOS`` in turn and leaves
``rank_<n>.out``, ``.err`` and ``.code`` in a folder of its name. torch is imported once, which
takes longer than all that is measured.
"""

import dataclasses
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from domino_compile.tools.calibrate import collectives, device
from domino_compile.tools.calibrate.ranks import Ranks, place_in
from domino_compile.tools.calibrate.run import Calibration, calibrate
from domino_compile.tools.calibrate.settings import Settings
from domino_compile.tools.cli.main import run

# What a rank measures is not what these tests are about: tiny products, tiny copies.
device.MATMULS["cpu"] = ((16, 16, 16),)
device.ATTENTION["cpu"] = ((1, 1, 16, 8),)
device.COPY_BYTES["cpu"] = 1 << 16
SIZES = (1000, 4096, 65536)
LIMIT_S = 60


def measure(folder: Path, **changes: Any) -> None:
    """Calibrate groups of two and of all ranks; every rank notes what it got."""
    place = place_in(os.environ)
    assert place is not None
    torch.set_num_threads(1)
    files = {"rates_out": folder / "rates.json"}
    settings = Settings("cpu", SIZES, rounds=2, round_s=1e-4, timeout_s=60, **files)  # type: ignore[arg-type]
    said: list[tuple[str, float]] = []
    ranks = Ranks(place, "cpu", settings.timeout_s)
    found = calibrate(
        ranks,
        dataclasses.replace(settings, **changes),
        lambda text, share: said.append((text, share)),
    )
    shares = [share for _, share in said]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] < 1
    (folder / f"rank_{place.rank}.txt").write_text(repr(_plain(found)))


def _plain(found: Calibration) -> Any:
    tables = [dataclasses.asdict(table) for table, _ in found.tables]
    return tables, found.rates.as_json(), {k: dict(v) for k, v in found.raised.items()}


def without_reduce_scatter(folder: Path) -> None:
    """As where the backend of one rank has no reduce-scatter."""
    before = collectives.call_of

    def call_of(collective: str, full: Any, group: Any) -> Any:
        if collective == "reduce_scatter" and os.environ["RANK"] == "1":
            raise RuntimeError("gloo has no such thing\nwith a long stack")
        return before(collective, full, group)

    # The other rank must not wait in the collective for the one that cannot run it.
    if os.environ["RANK"] == "0":
        collectives.call_of = lambda c, f, g: (
            (lambda: None) if c == "reduce_scatter" else before(c, f, g)
        )
    else:
        collectives.call_of = call_of
    measure(folder)


def command(folder: Path) -> None:
    """The command; rank 1 fails in the middle."""
    if os.environ["RANK"] == "1":
        collectives.monotone = fail
        before = collectives.median_us
        calls = iter(range(100))

        def median_us(*arguments: Any) -> float:
            return fail() if next(calls) == 2 else before(*arguments)

        collectives.median_us = median_us
    sys.exit(run(["calibrate", "--rates-out", str(folder / "rates.json"), "--sizes", "4K,8K"]))


def fail(*_: Any) -> Any:
    raise RuntimeError("out of luck\nand a long stack")


def die(folder: Path) -> None:
    """The command; rank 1 is gone in the middle, without a word."""
    if os.environ["RANK"] == "1":
        collectives.median_us = lambda *_: os._exit(9)
    sys.exit(run(["calibrate", "--rates-out", str(folder / "rates.json"), "--sizes", "4K,8K"]))


#: Name: number of ranks, and what each does.
SCENARIOS: dict[str, tuple[int, Callable[[Path], None]]] = {
    "measure": (2, measure),
    "pairs": (4, lambda folder: measure(folder, group_sizes=(2,), name="pairs", rounds=1)),
    "without_reduce_scatter": (2, without_reduce_scatter),
    "bad_group": (2, lambda folder: measure(folder, group_sizes=(3,))),
    "command": (2, command),
    "die": (2, die),
}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run_scenario(name: str, folder: Path) -> None:
    folder.mkdir()
    count, act = SCENARIOS[name]
    os.environ |= {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    ranks = {fork_rank(rank, act, folder): rank for rank in range(count)}
    until = time.monotonic() + LIMIT_S
    while ranks:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process:
            code = os.waitstatus_to_exitcode(status)
            (folder / f"rank_{ranks.pop(process)}.code").write_text(str(code))
        elif time.monotonic() > until:
            for process in ranks:
                os.kill(process, signal.SIGKILL)
            until += LIMIT_S
        else:
            time.sleep(0.01)


def fork_rank(rank: int, act: Callable[[Path], None], folder: Path) -> int:
    process = os.fork()
    if process:
        return process
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    for stream, kind in ((sys.stdout, "out"), (sys.stderr, "err")):
        file = os.open(folder / f"rank_{rank}.{kind}", os.O_CREAT | os.O_WRONLY)
        os.dup2(file, stream.fileno())
    code = 0
    try:
        act(folder)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    for scenario in SCENARIOS:
        run_scenario(scenario, Path(sys.argv[1]) / scenario)
