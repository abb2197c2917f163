"""Random runs on two to four real ranks, each with one fault injected on one rank.

    python -m benchmarks.ranks_fuzz --runs 500 --out benchmarks/results/ranks_fuzz.json

A rank is slow or killed, or has another version of the package or of torch, other options, other
rates, half a rates file or half a cache. No run may hang, give a wrong number, or leave ranks that
do different things (``tests/ranks/fuzzed.py``). The table has one row per fault, and says which
sitting ran how many, for how long and with which torch.

Runs are made in blocks on the same processes, and the file is written after each block. A sitting
goes on after the last seed in the file, so that runs of several sittings add up. ``--workers``
blocks run side by side, each with two to four busy processes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.ranks.fuzzed import COMPILE_S, FAULTS, TIMEOUT_S, Runs, described, drawn, judged
from tests.ranks.pool import RankError

#: Runs of one block.
BLOCK = 8


@dataclass
class Seen:
    """What some runs have shown.

    Attributes:
        rows: For each fault its runs, the outcomes of their ranks, and what took longest.
        wrong: What went wrong, with the case and the answers of the ranks.
        next_seed: The first seed that has not been used.
        seconds: The duration.
        sittings: The runs, seconds and torch of the earlier sittings.
        mended: What earlier sittings have found and what it was, in words; written by hand.
    """

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    next_seed: int = 0
    seconds: float = 0.0
    sittings: list[dict[str, Any]] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)

    @property
    def runs(self) -> int:
        """Return how many runs there were, of all faults."""
        return sum(row["runs"] for row in self.rows.values())

    def row(self, fault: str) -> dict[str, Any]:
        """Return the row of a fault, which is made when it is first asked for."""
        empty = {"runs": 0, "outcomes": Counter[str](), "longest_s": 0.0, "wrong": 0}
        return self.rows.setdefault(fault, empty)

    def add(self, other: Seen) -> None:
        """Take over what other runs have shown."""
        for fault, theirs in other.rows.items():
            mine = self.row(fault)
            for key in ("runs", "wrong", "outcomes"):
                mine[key] += theirs[key]
            mine["longest_s"] = max(mine["longest_s"], theirs["longest_s"])
        self.wrong += other.wrong
        self.next_seed = max(self.next_seed, other.next_seed)


def main() -> int:
    """Run them; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description="Random runs on ranks with faults.")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="the first; by default the file's next one")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    total = _known(chosen.out)
    first = total.next_seed if chosen.seed is None else chosen.seed
    began, before = time.monotonic(), total.seconds
    until = time.time() + 60 * chosen.minutes
    blocks = [
        (seed, chosen.ranks[n % len(chosen.ranks)], min(BLOCK, first + chosen.runs - seed), until)
        for n, seed in enumerate(range(first, first + chosen.runs, BLOCK))
    ]
    found = False
    with ProcessPoolExecutor(chosen.workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_block, *block) for block in blocks]):
            try:
                seen = done.result()
            except RankError as error:  # no run: the ranks could not be started
                print(error, file=sys.stderr, flush=True)
                continue
            total.add(seen)
            total.seconds = before + time.monotonic() - began
            found = found or bool(seen.wrong)
            _write(chosen, total)
    print(json.dumps(_described(chosen, total), indent=1))
    return 1 if found else 0


def _block(first: int, ranks: int, count: int, until: float) -> Seen:
    """Run cases with one number of ranks, whose processes live until one is killed."""
    seen = Seen()
    if time.time() > until:
        return seen
    with Runs(ranks) as pool:
        for number in range(first, first + count):
            if time.time() > until:
                break
            case = drawn(1000 * number + ranks, ranks)
            with tempfile.TemporaryDirectory() as folder:
                answers = pool.collect(
                    *("tests.ranks.fuzzed:run", described(case, Path(folder))),
                    timeout=TIMEOUT_S + COMPILE_S,
                )
            said, row = judged(case, answers), seen.row(case.fault)
            row["runs"] += 1
            row["outcomes"].update(answer["outcome"] for answer in answers)
            row["longest_s"] = max(row["longest_s"], *(a.get("seconds", 0.0) for a in answers))
            row["wrong"] += bool(said)
            seen.next_seed = number + 1
            if said:
                seen.wrong.append(f"{said}: {case}: {answers}")
                print(seen.wrong[-1], file=sys.stderr, flush=True)
    return seen


def _known(path: Path | None) -> Seen:
    """Return what earlier sittings have written to a file."""
    seen = Seen()
    if path is None or not path.exists():
        return seen
    data = json.loads(path.read_text())
    for one in data["faults"]:
        seen.rows[one["fault"]] = {
            "runs": one["runs"],
            "wrong": one["wrong"],
            "outcomes": Counter(one["outcomes_of_ranks"]),
            "longest_s": one["longest_s"],
        }
    seen.wrong, seen.seconds = data["wrong"], data["seconds"]
    seen.mended = data.get("mended", [])
    first = {key: data[key] for key in ("runs", "seconds", "torch")}
    seen.sittings = data.get("sittings", [first])
    seen.next_seed = data["next_seed"]
    return seen


def _write(chosen: argparse.Namespace, total: Seen) -> None:
    if chosen.out is not None:
        part = chosen.out.with_suffix(".part")
        part.write_text(json.dumps(_described(chosen, total), indent=1) + "\n")
        part.replace(chosen.out)


def _described(chosen: argparse.Namespace, total: Seen) -> dict[str, Any]:
    import torch

    rows = total.rows
    order = [*FAULTS, *(fault for fault in rows if fault not in FAULTS)]
    faults = [
        {
            "fault": fault,
            "runs": rows[fault]["runs"],
            "wrong": rows[fault]["wrong"],
            "outcomes_of_ranks": dict(rows[fault]["outcomes"].most_common()),
            "longest_s": round(rows[fault]["longest_s"], 1),
        }
        for fault in order
        if fault in rows
    ]
    sitting = {
        "runs": total.runs - sum(one["runs"] for one in total.sittings),
        "seconds": round(total.seconds - sum(one["seconds"] for one in total.sittings)),
        "torch": torch.__version__,
    }
    return {
        "runs": total.runs,
        "next_seed": total.next_seed,
        "ranks": chosen.ranks,
        "seconds": round(total.seconds),
        "check_timeout_s": TIMEOUT_S,
        "torch": torch.__version__,
        "sittings": [*total.sittings, sitting],
        "faults": faults,
        "wrong": total.wrong,
        "mended": total.mended,
    }


if __name__ == "__main__":
    sys.exit(main())
