"""Run all measurements of real links on one machine with several GPUs.

Usage: ``python -m benchmarks.multi_gpu [--out out/multi_gpu]`` (all GPUs of the machine), or
``--device cpu`` for a dry run of the same steps on gloo ranks with small models. Steps compile side
by side, but each measurement has the machine to itself; ``--resume`` continues with the missing
results.

1. link tables: ``domino calibrate`` on groups of 2, 4, ... ranks, per number of NCCL CTAs;
2. numerics: training of every capture form on 2 ranks, cut against uncut (``tests/ranks``), while
   the first steps compile;
3. steps: ``domino bench`` of each model with real collectives, and of the first one also without
   CUDA graphs and with other numbers of CTAs;
4. the same steps on the emulated link with the tables just measured, on each GPU separately: no two
   are equally fast, and a real step is as slow as the slowest;
5. jobs: ``benchmarks.rivals``, planned with the table just measured.

``--only jobs`` runs some of these parts (``tables``, ``steps`` with numerics, ``jobs``); those that
are not measured plan with the device's own link table.

Writes ``nccl-<ranks>.json`` (bench results with ``emulated: false`` and, beside them, the emulated
ones), ``nccl-jobs-<ranks>.json``, the link tables, and the log of every step; ends with a table of
measured against emulated. A step that fails or takes too long is named in it, and the others
continue. The machine's setting of NVLink multicast is not changed.

Graphs do not come from a cache. The graph for ``cuda:1`` has another cache key than the one for
``cuda:0``, so one rank might find its graph while another compiles; Inductor's own overlap
scheduling exchanges estimates between ranks while it compiles, and would wait for ever.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.page import as_table
from benchmarks.rivals_table import file_of
from benchmarks.steps import Machine
from domino_compile.host.turns import Turn

MODELS = {"cuda": ("gpt3-6.7b", "llama2-7b", "gpt3-13b"), "cpu": ("tiny-gpt", "tiny-llama")}
SHAPE = {"cuda": ("--batch", "8", "--seq", "1024"), "cpu": ("--batch", "4", "--seq", "64")}
VARIANTS = {"cuda": "inductor,inductor-overlap,domino,free", "cpu": "inductor,domino"}
LEAST = "inductor,domino"
#: The variants that are also emulated.
EMULATED = {"inductor", "domino", "free"}
ROUNDS = {"cuda": "20", "cpu": "2"}
SIZES = {"cuda": "64K,1M,4M,16M,32M,64M,128M,256M", "cpu": "64K,1M"}
#: The values of NCCL_MAX_CTAS to try; None leaves the choice to NCCL.
CTAS: tuple[int | None, ...] = (None, 8, 16)
#: The parts of the whole, for ``--only``.
PARTS = ("tables", "steps", "jobs")
TITLES = (
    *("workload", "CTAs", "graphs", "variant", "step ms", "speed-up", "hidden"),
    *("emulated ms", "off"),
)
#: The number of benches that compile side by side: as many as fit in a GPU's memory.
BESIDE = 3
#: Measured link tables by the size of the group and NCCL_MAX_CTAS.
Links = dict[tuple[int, int | None], Path]


def numerics(machine: Machine) -> None:
    """Check training of every capture form; failures are logged as they happen."""
    machine.run(
        "numerics",
        ["-m", "pytest", "-v", "-p", "no:cacheprovider", "--tb=short", "--maxfail=5",
         "tests/ranks/test_training.py", "-k", "test_training and not 4-"],
        DOMINO_TEST_DEVICE=machine.device,
    )  # fmt: skip


def tables(machine: Machine, sizes: Sequence[int]) -> Links:
    """Measure link tables by the size of the group and the number of CTAs."""
    found = {}
    for ctas in CTAS if machine.device == "cuda" else (None,):
        for ranks in sizes:
            name = _name(f"{machine.device}-tp{ranks}", ctas)
            path = machine.out / f"{name}.json"
            options = ["calibrate", "--device", machine.device, "--name", name, "--out", str(path)]
            options += ["--rates-out", str(machine.out / "rates.json")]
            options += ["--sizes", SIZES[machine.device], "--round-ms", "5"]
            if (machine.resume and path.exists()) or machine.run(
                f"calibrate-{name}", [*machine.torchrun(ranks), *options], **_nccl(ctas),
                TORCH_NCCL_HIGH_PRIORITY="1",  # as in the steps
            ):  # fmt: skip
                found[ranks, ctas] = path
    return found


@dataclass(frozen=True)
class Run:
    """One ``domino bench`` on the real link, and the same one on an emulated link.

    Attributes:
        model: the model, as in ``domino bench``.
        variants: the variants, as in ``domino bench``.
        ctas: the value of NCCL_MAX_CTAS, if it is set.
        graphs: whether CUDA graphs are recorded.
    """

    model: str
    variants: str
    ctas: int | None = None
    graphs: bool = True


def runs(device: str) -> list[Run]:
    """Return the benches to run."""
    models = MODELS[device]
    found = [Run(model, VARIANTS[device]) for model in models]
    if device == "cuda":
        found += [Run(models[0], LEAST, ctas) for ctas in CTAS if ctas is not None]
        found.append(Run(models[0], LEAST, graphs=False))
    return found


def steps(machine: Machine, ranks: int, link: Links) -> list[Any]:
    """Return bench results on the real link, each with those on the emulated one by GPU."""
    found: dict[Run, dict[str, Any]] = {}

    def bench(run: Run, gpu: int | None = None) -> None:
        result = _bench(machine, run, ranks, link, gpu)
        if result is None:
            return
        with one_writes:
            if gpu is None:
                found[run] = {"nccl_max_ctas": run.ctas, "measured": result, "predicted": []}
            else:
                found[run]["predicted"].append(result)
            write(machine, [found[run] for run in asked if run in found])

    asked, one_writes = runs(machine.device), threading.Lock()
    with ThreadPoolExecutor(BESIDE) as pool, Turn(_turn(machine, None)) as turn:
        turn.share()  # none of the steps measures while numerics are checked
        real = [pool.submit(bench, run) for run in asked]
        numerics(machine)
        turn.release()
        for step in real:
            step.result()
    gpus = machine.ranks if machine.device == "cuda" else 1
    with ThreadPoolExecutor(BESIDE * gpus) as pool:
        emulated = [pool.submit(bench, run, gpu) for run in found for gpu in range(gpus)]
    for step in emulated:
        step.result()
    return [found[run] for run in asked if run in found]


def _turn(machine: Machine, gpu: int | None) -> Path:
    """Return the file by which benches take turns: on all GPUs together, or on one."""
    return machine.out / ("gpus.lock" if gpu is None else f"gpu-{gpu}.lock")


def _bench(machine: Machine, run: Run, ranks: int, link: Links, gpu: int | None) -> Any:
    """Run one ``domino bench`` and return its result; ``None`` if it failed.

    Args:
        machine: the environment.
        run: the bench to run.
        ranks: the size of the tensor-parallel group.
        link: the measured link tables.
        gpu: the GPU on which the link is emulated with the measured table; ``None`` for all GPUs
            and the real link.
    """
    emulated = gpu is not None
    name = _name(f"{run.model}-tp{ranks}", run.ctas) + ("" if run.graphs else "-launches")
    name += f"-emulated-{gpu}" if emulated else ""
    path, table = machine.out / f"{name}.json", link.get((ranks, run.ctas))
    options = ["bench", "--device", machine.device, "--model", run.model, "--tp", str(ranks)]
    options += ["--layers", "4" if machine.device == "cuda" else "1", *SHAPE[machine.device]]
    variants = [v for v in run.variants.split(",") if not emulated or v in EMULATED]
    options += ["--variants", ",".join(variants), "--json", str(path)]
    options += ["--rounds", ROUNDS[machine.device], "--turn", str(_turn(machine, gpu))]
    options += [] if run.graphs else ["--no-cuda-graphs"]
    if machine.resume and path.exists():
        return json.loads(path.read_text())
    environment = _nccl(run.ctas) | {
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "0",
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "0",
        "TORCHINDUCTOR_AUTOGRAD_CACHE": "0",
        "TORCHINDUCTOR_CACHE_DIR": str(machine.out / "cache"),
    }
    if not emulated:
        planned = [] if table is None else ["--planned-link", str(table)]
        command = [*machine.torchrun(ranks), *options, *planned]
    elif table is None:
        return None  # calibrate failed, and says so
    else:
        command = ["-m", "domino_compile", *options, "--link", str(table)]
        environment["CUDA_VISIBLE_DEVICES"] = str(gpu)
    if not machine.run(f"bench-{name}", command, **environment):
        return None
    return json.loads(path.read_text())


def jobs(machine: Machine, ranks: int, link: Links) -> bool:
    """Measure the jobs beside Inductor's own ways to overlap; return False if one failed."""
    command = ["-m", "benchmarks.rivals", "--device", machine.device, "--ranks", str(ranks)]
    command += ["--out", str(machine.out / file_of(ranks)), "--logs", str(machine.out / "jobs")]
    command += ["--resume"] if machine.resume else []
    if (table := link.get((ranks, None))) is not None:
        command += ["--planned-link", str(table)]
    return machine.run("jobs", command)


def write(machine: Machine, results: list[Any]) -> None:
    """Write the results so far."""
    kind = "nccl" if machine.device == "cuda" else "gloo"
    path = machine.out / f"{kind}-{machine.ranks}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")


def _name(begin: str, ctas: int | None) -> str:
    return begin if ctas is None else f"{begin}-ctas{ctas}"


def _nccl(ctas: int | None) -> dict[str, str]:
    return {} if ctas is None else {"NCCL_MAX_CTAS": str(ctas)}


def summary(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return a row for every variant that was measured."""
    rows = []
    for result in results:
        measured = result["measured"]
        forecast: dict[str, float] = {}
        for one in result["predicted"]:
            for variant in one["variants"]:
                ms = variant["step_ms"] or 0.0
                forecast[variant["variant"]] = max(ms, forecast.get(variant["variant"], ms))
        for variant in measured["variants"]:
            if not variant["step_ms"]:
                continue
            other = forecast.get(variant["variant"])
            off = f"{other / variant['step_ms'] - 1:+.1%}" if other else ""
            hidden = variant["hidden_fraction"]
            rows.append([
                f"{measured['model']} TP={measured['tp']}",
                str(result["nccl_max_ctas"] or "NCCL's"),
                "on" if measured["cuda_graphs"] else "off",
                variant["variant"],
                f"{variant['step_ms']:.2f}",
                f"{variant['speedup']:.3f}" if variant["speedup"] else "",
                "" if hidden is None else f"{hidden:.0%}",
                f"{other:.2f}" if other else "",
                off,
            ])  # fmt: skip
    return rows


def main() -> int:
    """Run all steps; return 1 if one failed."""
    asked = parse()
    machine = Machine(asked.device, asked.ranks, asked.out.resolve(), asked.limit, asked.resume)
    machine.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    sizes = [size for size in (2, 4, 8) if size <= machine.ranks] or [machine.ranks]
    link = tables(machine, sizes) if "tables" in asked.only else {}
    if "steps" in asked.only:
        results = steps(machine, machine.ranks, link)
        print(as_table(TITLES, summary(results)))
    if "jobs" in asked.only:
        jobs(machine, machine.ranks, link)
        print((machine.out / "jobs.log").read_text())
    failed = [outcome for outcome in machine.outcomes if outcome.problem]
    for outcome in failed:
        print(f"failed: {outcome.name}: {outcome.problem}")
    took = time.monotonic() - began
    print(f"{len(machine.outcomes)} steps in {took:.0f} s; results and logs: {machine.out}")
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--ranks", type=int, help="default: all GPUs; 2 with --device cpu")
    parser.add_argument("--out", type=Path, default=Path("out/multi_gpu"))
    parser.add_argument("--resume", action="store_true", help="keep the results that are there")
    parser.add_argument("--only", type=_parts, default=PARTS, metavar=",".join(PARTS))
    parser.add_argument("--limit", type=float, default=480.0, help="seconds a step may take")
    asked = parser.parse_args()
    if asked.ranks is None:
        asked.ranks = 2 if asked.device == "cpu" else _gpus()
    if asked.ranks < 2:
        parser.error(f"{asked.ranks} GPUs: at least 2 are needed (--device cpu is a dry run)")
    return asked


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    if unknown := [part for part in parts if part not in PARTS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}: choose from {', '.join(PARTS)}")
    return parts


def _gpus() -> int:
    import torch

    return int(torch.cuda.device_count())


if __name__ == "__main__":
    sys.exit(main())
