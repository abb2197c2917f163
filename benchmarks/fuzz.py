"""Random tensor-parallel programs, cut against uncut, in float64.

    python -m benchmarks.fuzz --programs 10000 --workers 2 --out benchmarks/results/fuzz.json

Each run adds to the file: it goes on after the last seed, so that many programs can be run in
several sittings. The result says how many programs ran in which sitting, how they were run
(``tests/property/fuzz.py``), how long it took, and what was found. A program that differs is
printed; it can be kept in ``tests/property/test_regressions.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.property.fuzz import Found


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
    each = -(-chosen.programs // chosen.workers)
    work = [
        (each, 60 * chosen.minutes, chosen.seed + 1_000_000 * worker, chosen.compiled)
        for worker in range(chosen.workers)
    ]
    with ProcessPoolExecutor(chosen.workers, mp_context=get_context("spawn")) as pool:
        first, *others = pool.map(_work, work)
    for other in others:
        first.add(other)
    now = described(first, chosen) | {"next_seed": chosen.seed + each}
    text = json.dumps(added(known, now), indent=1) + "\n"
    if chosen.out is not None:
        part = chosen.out.with_suffix(".part")
        part.write_text(text)
        part.replace(chosen.out)
    print(text)
    return 1 if first.failures else 0


def _work(job: tuple[int, float, int, float]) -> Found:
    """One process's programs."""
    os.environ["DOMINO_COMPILE_STRICT"] = "1"
    warnings.simplefilter("ignore")
    import torch

    from tests.property import lone_rank
    from tests.property.fuzz import fuzz

    torch.set_num_threads(1)
    lone_rank.start()
    count, seconds, seed, compiled = job
    return fuzz(count, time.monotonic() + seconds, seed, compiled)


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
