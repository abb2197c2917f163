"""Random tensor-parallel programs, cut against uncut, in float64.

    python -m benchmarks.fuzz --programs 10000 --workers 2 --out benchmarks/results/fuzz.json

The programs are drawn in batches, each with a seed of its own. The file is written after every
batch, and each sitting goes on after the last seed in the file, so that many programs can be run in
several sittings, and one that is interrupted loses little. The result says how many programs ran in
which sitting, how they were run (``tests/property/fuzz.py``), how long it took, and what was found.
A program that differs is printed; it can be kept in ``tests/property/test_regressions.py``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing import TimeoutError as Late
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.property.fuzz import Found

#: Programs of one batch: half a minute or so, so that an interrupted sitting loses little.
BATCH = 40
#: How long a program may run on after the end of a sitting before it is given up, in seconds.
GRACE_S = 45.0
#: The seed of a batch, its programs, when to stop (``time.time``), and the share that is compiled.
Batch = tuple[int, int, float, float]


def main() -> int:
    """Run the programs; return 1 if anything was found."""
    parser = argparse.ArgumentParser(description="Random programs, cut against uncut.")
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, help="the first; by default the file's next one")
    parser.add_argument(
        "--compiled", type=float, default=0.05, help="share that goes through torch.compile"
    )
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    known = json.loads(chosen.out.read_text()) if chosen.out and chosen.out.exists() else {}
    if chosen.seed is None:
        chosen.seed = known.get("next_seed", known.get("seed", 0) + known.get("programs", 0))
    total, now = known, dict[str, Any]()
    for now in _sitting(chosen):
        total = added(known, now)
        if chosen.out is not None:
            part = chosen.out.with_suffix(".part")
            part.write_text(json.dumps(total, indent=1) + "\n")
            part.replace(chosen.out)
    print(json.dumps(total, indent=1))
    return 1 if now.get("failures") else 0


def _sitting(chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run batches side by side; after each, yield the results of all so far."""
    until = time.time() + 60 * chosen.minutes
    sizes = [min(BATCH, chosen.programs - at) for at in range(0, chosen.programs, BATCH)]
    batches = [(chosen.seed + n, size, until, chosen.compiled) for n, size in enumerate(sizes)]
    began, done, seeds = time.monotonic(), None, [chosen.seed]
    with get_context("spawn").Pool(chosen.workers) as pool:  # leaving it ends its processes
        results = pool.imap_unordered(_run, batches)
        for _ in batches:
            try:
                seed, found = results.next(timeout=max(0.0, until + GRACE_S - time.time()))
            except Late:
                print("gave up programs that did not end", file=sys.stderr)
                return
            if not found.programs:
                continue  # its turn came after the end
            seeds.append(seed + 1)
            if done is None:
                done = found
            else:
                done.add(found)
            done.seconds = time.monotonic() - began
            yield described(done, chosen) | {"next_seed": max(seeds)}


def _run(batch: Batch) -> tuple[int, Found]:
    """Run a batch in a process of the pool."""
    os.environ["DOMINO_COMPILE_STRICT"] = "1"
    warnings.simplefilter("ignore")
    import torch

    from tests.property import lone_rank
    from tests.property.fuzz import fuzz

    torch.set_num_threads(1)
    lone_rank.start()
    gc.freeze()  # what is imported stays: the collector need not search it again and again
    seed, programs, until, compiled = batch
    return seed, fuzz(programs, time.monotonic() + until - time.time(), seed, compiled)


def described(found: Found, chosen: argparse.Namespace) -> dict[str, Any]:
    """Return the result as JSON data."""
    import torch

    return {
        "programs": sum(found.programs.values()),
        **found.programs,
        "seed": chosen.seed,
        "seconds": round(found.seconds),
        "workers": chosen.workers,
        "torch": torch.__version__,
        "statuses": dict(found.statuses.most_common()),
        "features": dict(found.features.most_common()),
        "failures": found.failures,
        "unsupported_by_torch": dict(found.unsupported),
    }


def added(known: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return the results of earlier sittings and of this one, in one.

    Args:
        known: The earlier results; empty if there are none.
        now: What ``described`` returned, with the first seed that it has not used.
    """
    sitting = {key: now[key] for key in ("seed", "programs", "seconds", "workers", "torch")}
    if not known:
        return now | {"sittings": [sitting]}
    first = {key: known[key] for key in sitting if key in known}
    total = {**known, **now}
    total["sittings"] = [*known.get("sittings", [first]), sitting]
    total["seed"] = min(known["seed"], now["seed"])
    total["next_seed"] = max(known.get("next_seed", 0), now["next_seed"])
    for key, value in known.items():
        if key in ("seed", "next_seed", "workers"):
            continue
        if isinstance(value, int):
            total[key] = value + now.get(key, 0)
        elif isinstance(value, dict):
            total[key] = dict(Counter(value) + Counter(now.get(key, {})))
        elif key == "failures":
            total[key] = value + now[key]
    return total


if __name__ == "__main__":
    sys.exit(main())
