"""Training on real links that change while it runs: does ``watch`` follow, and what if one dies?

    sudo python -m benchmarks.changing_network [--out benchmarks/results/changing_network.json]

The ranks are gloo processes in network namespaces (``benchmarks.namespaces``), and nothing is
emulated: bandwidth is limited by ``tc``, delay is added by a process between the namespaces.

1. ``domino calibrate`` measures the network, as a user would.
2. A small model trains on it, uncut, as the reference.
3. Two models train in turn, with and without ``watch``. Meanwhile all links become slower, and then
   as fast as before. Their losses must be those of the reference.
4. In short trainings the link of one rank dies, in a step or while the ranks plan again. All ranks
   must end with an error within ``LIMIT_S``.

Nothing is left behind, also after an error or Ctrl-C. Where namespaces cannot be made, one line
says why, and the exit code is 0.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.changing_rank import UNBOUNDED, WATCHED, Training
from benchmarks.changing_summary import Phase, Step, dead_links, furthest, replans, rows, table
from benchmarks.namespaces import END_S, Network, NetworkError, Shape, why_not
from benchmarks.network_ranks import THREADS, Ranks
from benchmarks.page import PAGE, RESULTS, put

#: Within this time after a link has died all ranks must have ended, in seconds.
LIMIT_S = 30.0
#: How far losses may be from the uncut program's, relatively; float32, tens of steps with Adam.
CLOSE = 1e-4
#: The time limits of a calibration and of a training.
CALIBRATE_S, TRAIN_S = 300.0, 1500.0
FAST, SLOW = Shape(100.0, 0.1), Shape(20.0, 1.0)
#: ``watch`` needs three probes for the first change and six for the second.
WATCH = 3
PHASES = (Phase("before", FAST, 9), Phase("slower", SLOW, 18), Phase("as before", FAST, 27))
#: A model with one block, which computes much beside its collectives, so that the steps stay short
#: on the slow network too.
MODEL = Training(
    link="",
    steps=sum(phase.steps for phase in PHASES),
    watch=WATCH,
    layers=1,
    width=64,
    ratio=256,
    vocabulary=8192,
)
#: The payloads that ``domino calibrate`` measures: up to that of the model.
SIZES = "16K,64K,128K,256K"
STEP, PLAN = "train", "plan again"
#: Number of ranks, whose link dies, and when.
DEAD = ((2, 1, STEP), (2, 1, PLAN), (2, 0, PLAN), (3, 2, STEP), (3, 2, PLAN))
#: The tiny training in which links die, and what the links are like before and after a change that
#: makes the ranks plan again.
TINY = Training(
    link="",
    steps=UNBOUNDED,
    watch=1,
    lowering="eager",
    slices=2,
    variants=(WATCHED,),
    layers=1,
    width=24,
    rows=4,
    length=8,
    dtype="float64",
)
TINY_FAST, TINY_SLOW = Shape(200.0), Shape(1.0, 5.0)


def main() -> int:
    """Run everything; return 1 if losses differ, a rank hangs, or a plan did not follow."""
    parser = argparse.ArgumentParser(description="Train on real links that change.")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "changing_network.json")
    parser.add_argument("--page", action="store_true", help="only write the tables")
    chosen = parser.parse_args()
    if chosen.page:
        write_page(json.loads(chosen.out.read_text()))
        return 0
    if reason := why_not():
        print(f"skipped: {reason}")
        return 0
    try:
        result = measured(chosen.ranks)
    except NetworkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the network is gone", file=sys.stderr)
        return 130
    chosen.out.write_text(json.dumps(result, indent=1) + "\n")
    print(tables(result))
    for problem in (wrong := problems(result)):
        print(f"wrong: {problem}", file=sys.stderr)
    return 1 if wrong else 0


def measured(ranks: int) -> dict[str, Any]:
    """Calibrate, train, and let links die; return the result."""
    with tempfile.TemporaryDirectory(prefix="changing_network_") as folder:
        with Network(ranks) as network:
            network.shape(FAST)
            say("calibrating")
            env = calibrate(network, Path(folder))
            training = replace(MODEL, link=f"{folder}/link.json")
            say("training")
            trained = train(network, training, PHASES, Path(folder), env)
            link = json.loads(Path(folder, "link.json").read_text())
        print(table(trained), flush=True)
        dead = []
        for case in DEAD:
            say("{} ranks, the link of rank {} dies while they {}".format(*case))
            dead.append(let_die(*case, TINY, Path(folder)))
    return {
        "measured": "gloo, shaped veth",
        "command": "python -m benchmarks.changing_network",
        "ranks": ranks,
        "processors": os.cpu_count(),
        "load_at_the_end": [round(load, 1) for load in os.getloadavg()],
        "kernel": platform.release(),
        "training": {**asdict(training), "link": "link.json"},
        "phases": [asdict(phase) for phase in PHASES],
        "link": link,
        **trained,
        "dead_links": dead,
    }


def say(text: str) -> None:
    """Print what is done next."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def problems(result: Mapping[str, Any]) -> list[str]:
    """Return what a result shows to be wrong."""
    found = [
        f"losses of {name} differ from the uncut program's by {off:.1e}"
        for name, off in result["losses_off"].items()
        if not off <= CLOSE
    ]
    if len(result["replans"]) < 3:
        found.append("the plan did not follow both changes of the network")
    for case in result["dead_links"]:
        late = [end for end in case["others"] if end["after_s"] is None or end["after_s"] > LIMIT_S]
        found += [f"rank {end['rank']} hangs: {case['moment']}" for end in late]
    return found


def calibrate(network: Network, folder: Path) -> dict[str, str]:
    """Measure the network with ``domino calibrate``; return the variables for its rates.

    Raises:
        NetworkError: It fails. The message has its last line.
    """
    link, rates = folder / "link.json", folder / "rates.json"
    command = [sys.executable, "-m", "domino_compile", "calibrate", "--device", "cpu"]
    command += ["--out", str(link), "--rates-out", str(rates), "--sizes", SIZES]
    logs = [folder / f"calibrate_{rank}.log" for rank in range(network.ranks)]
    programs = []
    for rank, log in enumerate(logs):
        with log.open("w") as file:
            programs.append(network.start(rank, command, THREADS, file))
    try:
        codes = [program.wait(CALIBRATE_S) for program in programs]
    finally:
        network.end_programs()
    if any(codes):
        said = logs[0].read_text().strip().splitlines() or ["no output"]
        raise NetworkError(f"domino calibrate: {said[-1]}")
    return {"DOMINO_COMPILE_RATES": str(rates)}


def train(
    network: Network,
    training: Training,
    phases: Sequence[Phase],
    folder: Path,
    env: Mapping[str, str],
) -> dict[str, Any]:
    """Train while the network changes from phase to phase; return step times and losses.

    Raises:
        NetworkError: A rank failed, or did not end.
    """
    borders = changes(phases)
    network.shape(phases[0].shape)
    steps: list[Step] = []
    losses: dict[int, Any] = {}
    with Ranks(network, training, folder, env) as ranks:
        for rank, event in ranks.events(TRAIN_S):
            if event["event"] == "error":
                raise NetworkError(f"rank {rank}: {event['message']}")
            if event["event"] == "done":
                losses[rank] = event["losses"]
            if event["event"] == "step" and rank == 0:
                steps.append(event)
                ended = event["variant"] == training.variants[-1]
                if ended and (phase := borders.get(event["step"])) is not None:
                    network.shape(phase.shape, phase.ranks or None)
    if sorted(losses) != list(range(network.ranks)):
        said = ranks.log(0).read_text().strip().splitlines()[-1:]
        raise NetworkError(f"ranks ended without a result: {' '.join(said) or 'no output'}")
    return {
        "rows": rows(phases, steps, training.watch),
        "replans": replans(steps),
        "losses_off": worst([furthest(of_rank) for of_rank in losses.values()]),
        "losses": {name: [values[0], values[-1]] for name, values in losses[0].items()},
        "step_ms": {
            name: [round(step["ms"], 1) for step in steps if step["variant"] == name]
            for name in losses[0]
        },
    }


def changes(phases: Sequence[Phase]) -> dict[int, Phase]:
    """Return the phase that begins after each step that ends one."""
    ended, found = 0, {}
    for before, after in itertools.pairwise(phases):
        ended += before.steps
        found[ended - 1] = after
    return found


def worst(ranks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the largest of each number over the ranks."""
    return {name: max(rank[name] for rank in ranks) for name in ranks[0]}


def let_die(
    count: int, victim: int, moment: str, training: Training, folder: Path
) -> dict[str, Any]:
    """Cut the link of one rank while all train; return how the ranks end.

    Args:
        count: The number of ranks.
        victim: The rank whose link dies.
        moment: ``STEP`` or ``PLAN``.
        training: What they train; it needs no end.
        folder: A folder for files.
    """
    link = folder / f"tiny-{count}.json"
    link.write_text(json.dumps(made_up_table(count)))
    plans = moment == PLAN
    training = replace(training, link=str(link), watch=training.watch if plans else 0, hold=plans)
    ends = {rank: {"rank": rank, "after_s": None, "error": ""} for rank in range(count)}
    cut_s, planning = 0.0, 0
    with Network(count) as network, Ranks(network, training, folder) as ranks:
        network.shape(TINY_FAST)
        events = ranks.events(TRAIN_S)
        for rank, event in events:
            kind = event["event"]
            planning += kind == "planning"
            if kind == "step" and rank == 0 and event["step"] == 1 and plans:
                network.shape(TINY_SLOW)
            in_step = not plans and kind == "step" and rank == 0 and event["step"] == 3
            if in_step or (kind == "planning" and planning == count):
                network.cut(victim)
                cut_s = event["at_s"]
                ranks.go_on()
                break
            if kind in ("error", "exit"):
                raise NetworkError(f"rank {rank} ended too early: {event.get('message', '')}")
        _note_ends(ranks, cut_s, ends)
    others = [end for rank, end in ends.items() if rank != victim]
    return {
        "ranks": count,
        "victim": victim,
        "moment": moment,
        "timeout_s": training.timeout_s,
        "others": others,
        "itself": ends[victim],
    }


def _note_ends(ranks: Ranks, cut_s: float, ends: Mapping[int, dict[str, Any]]) -> None:
    """Note when every rank ends, and with which error; one that hangs keeps ``None``."""
    try:
        for rank, event in ranks.events(2 * LIMIT_S + END_S):
            if event["event"] == "error":
                ends[rank]["error"] = event["message"]
            if event["event"] == "exit" and ends[rank]["error"]:
                ends[rank]["after_s"] = round(event["at_s"] - cut_s, 2)
    except NetworkError:
        return


def made_up_table(ranks: int) -> dict[str, Any]:
    """Return a link table for the tiny training, whose link is about as fast as ``TINY_FAST``."""
    curve = {"latency_us": 2000, "algbw_gb_s": 0.02}
    return {
        "name": f"tiny-{ranks}",
        "ranks": ranks,
        "nodes": ranks,
        "source": "made up",
        "made_up": True,
        "ctas": 16,
        "note": "not a measurement",
        "collectives": {"all_reduce": curve},
    }


def tables(result: Mapping[str, Any]) -> str:
    """Return the tables of a result in Markdown."""
    return f"{table(result)}\n\n{dead_links(result)}"


def write_page(result: Mapping[str, Any]) -> None:
    """Put the tables into BENCHMARKS.md."""
    PAGE.write_text(put(PAGE.read_text(), "benchmarks.changing_network", tables(result)))


if __name__ == "__main__":
    sys.exit(main())
