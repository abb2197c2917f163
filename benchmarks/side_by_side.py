"""Compile many configurations side by side, and measure them one at a time.

``benchmarks.grid``, ``benchmarks.targets`` and ``benchmarks.jobs`` share this module. Compiling
takes much longer than measuring and needs the host, so configurations compile side by side, each in
its own process, and measure one at a time (``lane``). Results are written as they arrive: a list
with one object for each configuration, with ``error`` if it failed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Pipe
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks.grid_cells import Cell, rounds_of
from benchmarks.lane import BASELINE, Lane, Queue, Row, Settings, Start, probe

ROOT = Path(__file__).resolve().parents[1]
#: The number of processes on a GPU; more do not fit into its memory.
MOST_WORKERS = 12
#: The fraction of a GPU's memory for a round, and the memory to assume if unknown (CPU).
ROOM, DRY_GIB = 0.85, 64.0
#: The time limit of the probe, which loads torch.
PROBE_S = 90.0
#: Environment variables to set unless they are set already. The parent of forked processes must not
#: have looked for GPUs through CUDA, and they must not share a pool of compilers.
ENVIRONMENT = {
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        place: its name in ``CUDA_VISIBLE_DEVICES``; empty for the CPU.
        gib: its memory.
    """

    place: str
    gib: float


class Results:
    """The rows by configuration, in a file that is always complete JSON.

    Args:
        path: the file.
        kept: rows that exist already.
        common: entries to add to each new row.
        total: the number of rows to come.
        describe: returns a row as one line.
    """

    def __init__(
        self,
        path: Path,
        kept: Sequence[Row],
        common: dict[str, str],
        total: int,
        describe: Callable[[Row], str],
    ) -> None:
        self.path, self.common, self.total, self.describe = path, common, total, describe
        self.rows: dict[int, Row] = {row["number"]: row for row in kept}
        self._new: set[int] = set()

    def __call__(self, rows: Sequence[Row]) -> None:
        """Add rows, print a line for each and write the file."""
        for row in rows:
            self.rows[row["number"]] = row | self.common
            self._new.add(row["number"])
            print(f"{len(self._new):3}/{self.total} {self.describe(row)}", flush=True)
        if rows:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps(self.sorted(), indent=1) + "\n")
            partial.replace(self.path)

    def sorted(self) -> list[Row]:
        """Return the rows in the order of the configurations."""
        return [self.rows[number] for number in sorted(self.rows)]


def starter(method: str) -> Start:
    """Return a function that makes processes by one of ``multiprocessing``'s methods."""
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["benchmarks.lane_worker"])

    def start(target: Callable[..., None], arguments: tuple[Any, ...]) -> BaseProcess:
        process: BaseProcess = context.Process(target=target, args=arguments, daemon=True)
        process.start()
        return process

    return start


def probed(start: Start) -> tuple[list[tuple[str, float]], str]:
    """Return the names and GiB of the GPUs that a new process sees, or why it cannot use any."""
    ours, theirs = Pipe()
    try:
        process = start(probe, (theirs,))
    except (OSError, EOFError) as error:
        return [], f"no process: {error!r}"
    theirs.close()
    try:
        if not ours.poll(PROBE_S):
            return [], f"no answer in {PROBE_S:.0f} s"
        kind, content = ours.recv()
    except (OSError, EOFError):
        return [], "it ended without an answer"
    finally:
        process.kill()
        process.join()
    return (content, "") if kind == "gpus" else ([], content)


def machine(device: str, methods: Sequence[str]) -> tuple[Start, list[Gpu]]:
    """Return how processes are started here, and the GPUs.

    Raises:
        SystemExit: there is no GPU that a process can use.
    """
    if device == "cpu":
        return starter(methods[0]), [Gpu("", DRY_GIB)]
    for method in methods:
        start = starter(method)
        found, problem = probed(start)
        if found:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            places = visible.split(",") if visible else [str(n) for n in range(len(found))]
            for place, (name, gib) in zip(places, found, strict=False):
                print(f"GPU {place}: {name}, {gib:.0f} GiB ({method})", flush=True)
            return start, [Gpu(place, gib) for place, (_, gib) in zip(places, found, strict=False)]
        print(f"{method}: {problem}", flush=True)
    raise SystemExit("no GPU here; --device cpu is a dry run")


def run(
    asked: argparse.Namespace,
    chosen: Sequence[Cell],
    kept: Sequence[Row],
    target: Callable[..., None],
    describe: Callable[[Row], str],
    programs: int = 2,
    ranks: int = 1,
    **others: Any,
) -> list[Row]:
    """Compile and measure configurations.

    Args:
        asked: the command line.
        chosen: the configurations.
        kept: rows of other configurations.
        target: the function that a process runs.
        describe: returns a row as one line.
        programs: the number of programs compiled for each configuration.
        ranks: the number of real ranks of each configuration, with a GPU each; 1 if one process
            acts as one rank of an emulated link.
        others: other fields of ``Settings``.

    Returns:
        All rows, including the kept ones.
    """
    began = time.monotonic()
    prepare_environment(asked)
    start, gpus = machine(asked.device, [asked.start] if asked.start else ["forkserver", "spawn"])
    host = len(os.sched_getaffinity(0))
    gpus = together(gpus, ranks) if asked.device == "cuda" else gpus
    workers = asked.workers or max(1, min(MOST_WORKERS * len(gpus), (host - 2) // ranks))
    each = max(1, workers // len(gpus))
    chosen = [*chosen, *baseline_of(asked, chosen)]
    settings = Settings(
        device=asked.device,
        logs=asked.logs.resolve(),
        limit_s=asked.timeout,
        threads=max(1, host // (workers * ranks)),
        baseline=None if asked.baseline_path is None else asked.baseline_path.resolve(),
        **others,
    )
    settings.logs.mkdir(parents=True, exist_ok=True)
    room = ROOM * min(gpu.gib for gpu in gpus) * 2 / programs  # `process_gib` counts two programs
    rounds = rounds_of(chosen, each, room)
    print(
        f"{len(chosen)} configurations in {len(rounds)} rounds of up to {each}, GPUs "
        f"{' + '.join(gpu.place for gpu in gpus) or 'the CPU'}; "
        f"{'emulated' if ranks == 1 else 'real'} links",
        flush=True,
    )
    module = Path(sys.argv[0]).stem
    command = shlex.join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]])
    results = Results(asked.out, kept, {"command": command}, len(chosen), describe)
    queue = Queue(rounds, results, began + asked.seconds)
    spawn = starter("spawn")
    lanes = [Lane(gpu.place, start, target, settings, queue, spawn) for gpu in gpus]
    threads = [threading.Thread(target=lane.run, daemon=True) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if left := [cell.number for cells_ in queue.rounds for cell in cells_]:
        print(f"no time for {len(left)}: --only {','.join(map(str, sorted(left)))}")
    print(f"took {time.monotonic() - began:.0f} s; results: {asked.out}; logs: {settings.logs}")
    return results.sorted()


def together(gpus: Sequence[Gpu], ranks: int) -> list[Gpu]:
    """Return groups of GPUs of one host, each as one place with the memory of its smallest.

    Raises:
        SystemExit: there are too few.
    """
    if len(gpus) < ranks:
        raise SystemExit(f"{ranks} ranks need as many GPUs; here are {len(gpus)}")
    groups = [gpus[at : at + ranks] for at in range(0, len(gpus) - ranks + 1, ranks)]
    return [
        Gpu(",".join(gpu.place for gpu in group), min(gpu.gib for gpu in group)) for group in groups
    ]


def baseline_of(asked: argparse.Namespace, chosen: Sequence[Cell]) -> list[Cell]:
    """Return the configurations to measure with another checkout's package, if one is named.

    Raises:
        SystemExit: there is none in that folder.
    """
    if asked.baseline_path is None:
        return []
    if not (asked.baseline_path / "domino_compile" / "__init__.py").exists():
        raise SystemExit(f"--baseline-path {asked.baseline_path}: no domino_compile there")
    return [replace(cell, number=cell.number + BASELINE) for cell in chosen]


def prepare_environment(asked: argparse.Namespace) -> None:
    """Set the environment that processes started from here need."""
    if asked.device == "cpu":  # C++ is slow to compile without precompiled headers
        cache = asked.logs.resolve() / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "0")
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # also for the server that forks


def select(asked: argparse.Namespace, table: Sequence[Cell]) -> tuple[list[Cell], list[Row]]:
    """Return the requested configurations, and the rows of others that are kept."""
    chosen = [cell for cell in table if asked.only is None or cell.number in asked.only]
    kept: list[Row] = []
    if (asked.resume or asked.only) and asked.out.exists():
        kept = json.loads(asked.out.read_text())
    if asked.resume:
        known = {row["number"] for row in kept if not row.get("error")}
        chosen = [cell for cell in chosen if cell.number not in known]
    return chosen[: asked.limit], kept


def complete(rows: Sequence[Row], chosen: Sequence[Cell]) -> bool:
    """Return whether each configuration has a row without error."""
    found = {row["number"] for row in rows if not row.get("error")}
    return found.issuperset(cell.number for cell in chosen)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of benchmarks that compile side by side."""
    add = parser.add_argument
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--out", type=Path, help="default: in benchmarks/results; in out/ on the CPU")
    add("--logs", type=Path, default=ROOT / "out/logs", help="folder of the processes' output")
    add("--seconds", type=float, default=480.0, help="no round is started that would end later")
    add("--timeout", type=float, default=150.0, help="seconds a configuration may compile")
    add("--workers", type=int, help="processes in all; default: 12 a GPU, cores - 2 at most")
    add("--start", choices=["forkserver", "spawn"], help="default: the first that works")
    add("--only", type=numbers, metavar="N,M-K", help="these configurations")
    add("--limit", type=int, metavar="N", help="the first N")
    add("--resume", action="store_true", help="those that the results lack or have failed")
    add("--baseline-path", type=Path, metavar="DIR", help="measure this checkout's package too")
    add("--list", action="store_true", help="show the configurations")


def parse_common(parser: argparse.ArgumentParser, name: str) -> argparse.Namespace:
    """Parse the command line; results go to a file of this name by default."""
    return with_out(parser.parse_args(), name)


def with_out(asked: argparse.Namespace, name: str) -> argparse.Namespace:
    """Return the arguments with a file for the results, of this name by default."""
    if asked.out is None:
        asked.out = ROOT / ("benchmarks/results" if asked.device == "cuda" else "out") / name
    return asked


def show(cells: Sequence[Cell]) -> None:
    """Print configurations and the GPU memory that each needs."""
    print("\n".join(f"{cell}  ~{cell.live_gib:.1f} GiB" for cell in cells))


def numbers(text: str) -> set[int]:
    """Parse numbers and ranges of them, such as ``0,4-6``."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found
