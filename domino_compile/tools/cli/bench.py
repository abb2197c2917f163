"""``domino bench``: measure one training step with and without overlap."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from domino_compile.errors import DominoError, first_line
from domino_compile.host.launch import RanksError
from domino_compile.tools.bench.shapes import SHAPES, BenchError, shape_of
from domino_compile.tools.cli.outputs import check_files
from domino_compile.tools.cli.show import (
    examples,
    fail,
    print_json,
    progress_bar,
    require_enabled,
    show_table,
    warn,
)

if TYPE_CHECKING:
    from domino_compile.tools.bench.result import BenchResult
    from domino_compile.tools.bench.run import Plan, Progress
    from domino_compile.tools.bench.workload import Workload
    from domino_compile.tools.bench.world import Place

#: The default workload, by device.
DEFAULTS: dict[str, dict[str, Any]] = {
    "cuda": {"model": "gpt3-6.7b", "batch": 8, "seq": 1024, "tp": 8, "dtype": "bf16"},
    "cpu": {"model": "tiny-gpt", "batch": 8, "seq": 128, "tp": 2, "dtype": "fp32"},
}
#: The default emulated link, by device.
LINKS = {"cuda": "h200-nvlink-8", "cpu": "demo-2"}
ON_THE_CPU = "domino bench --device cpu (a small model on gloo ranks, emulated link)"
#: The default variants, by device; ``free`` is added where it is possible.
VARIANTS = {"cuda": "inductor,inductor-overlap,domino", "cpu": "inductor,domino"}

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(
    epilog=examples(
        "domino bench --model gpt3-6.7b --batch 8 --seq 1024 --tp 8 --link h200-nvlink-8",
        "domino bench --model llama3-8b --batch 1 --seq 8192 --style sp --ac full",
        "domino bench --device cpu --json out.json --html out.html",
        "torchrun --nproc-per-node 8 -m domino_compile bench --model llama2-7b",
    )
)
@click.option("--model", metavar="NAME", help=f"{', '.join(SHAPES)}.")
@click.option("--layers", type=int, default=4, show_default=True, help="Blocks; 0 means all.")
@click.option("--batch", type=int, help="Rows of the batch.  [8]")
@click.option("--seq", type=int, help="Tokens per row.  [GPU: 1024, CPU: 128]")
@click.option("--tp", type=int, help="Ranks sharing each layer.  [GPU: 8, CPU: 2, torchrun: all]")
@click.option("--link", metavar="NAME|FILE", help="Link table to emulate (see: domino links).")
@click.option(
    "--planned-link",
    metavar="NAME|FILE",
    help="Link table that domino plans with.  [the emulated one; with real ranks the device's]",
)
@click.option(
    "--style",
    default="megatron",
    show_default=True,
    help="megatron or dtensor, or with sequence parallelism megatron-sp or sp (DTensor).",
)
@click.option(
    "--ac",
    default="none",
    show_default=True,
    help="Activation checkpointing: none, selective or full.",
)
@click.option(
    "--compile",
    "granularity",
    default="whole",
    show_default=True,
    help="Unit of compilation: whole (the model as one program) or block.",
)
@click.option("--forward-only", is_flag=True, help="Run without backward and gradients (prefill).")
@click.option("--head", is_flag=True, help="Include embedding, head and cross entropy.")
@click.option("--dropout", type=float, help="Dropout of residual branches.  [gpt: 0.1, llama: 0]")
@click.option(
    "--dtype",
    help="bf16, fp16, fp32, or with torchao fp8-rowwise, fp8-rowwise-hp or "
    "fp8-tensorwise.  [GPU: bf16, CPU: fp32]",
)
@click.option(
    "--variants",
    help="Comma-separated list of inductor (always included), inductor-overlap (with Inductor's "
    "own overlap scheduling; GPU), inductor-simple-overlap (with its newer pass, if this torch has "
    "it), inductor-async-tp (asynchronous TP; GPUs of one host), domino, domino:SLICES, "
    "domino:SLICESxCOLUMNS, domino-measured (with guard='measure'), domino-wire (with "
    "transport='symmetric'), free and domino-free (collectives take no time).  [inductor, "
    "inductor-overlap on a GPU, domino, free]",
)
@click.option("--rounds", type=int, default=20, show_default=True, help="Measured rounds.")
@click.option("--steps", type=int, default=3, show_default=True, help="Steps per round.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), help="Device to measure on.  [cuda]")
@click.option("--no-cuda-graphs", is_flag=True, help="Launch each kernel separately.")
@click.option(
    "--normal-priority",
    is_flag=True,
    help="Run collectives on streams of normal priority, which is torch's default unless "
    "TORCH_NCCL_HIGH_PRIORITY=1 is set (GPU).",
)
@click.option("--ctas", type=int, help="Thread blocks that an emulated collective occupies (GPU).")
@click.option(
    "--float64/--no-float64",
    default=True,
    show_default=True,
    help="Compare each parameter's gradient with float64 (without dropout).",
)
@click.option("--traces", type=_FOLDER, help="Folder to write the profiler's traces to (GPU).")
@click.option(
    "--turn",
    metavar="FILE",
    type=_FILE,
    help="If several benchmarks run at the same time with the same FILE, only one measures at a "
    "time while the others wait.",
)
@click.option(
    "--json",
    "json_",
    metavar="[FILE]",
    is_flag=False,
    flag_value="-",
    help="Write the result as JSON to FILE; without FILE, print only the JSON.",
)
@click.option("--html", type=_FILE, help="Write the result as an HTML page.")
def bench(**asked: Any) -> None:
    """Measure the gain from overlap: variants of one step, run alternately in one process.

    For each variant this prints the step time, the share of communication that is hidden, the cost
    of hiding it, and the distance to a step whose communication takes no time.

    Without torchrun, one GPU acts as one of --tp ranks, and its collectives take the time of a link
    table. On the CPU, real gloo ranks are started and delayed to that time. Both are called
    emulated. Under torchrun the ranks are real, and so are the collectives unless --link is given
    (CPU).
    """
    require_enabled()
    os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")  # compile times are shown
    from domino_compile.tools.bench.world import Place

    under_torchrun = "RANK" in os.environ
    first = not under_torchrun or os.environ["RANK"] == "0"
    device = _device(asked["device"])
    workload = _workload(asked, device)
    place = Place(
        device,
        _link(asked, device, under_torchrun),
        asked["ctas"],
        high_priority=not asked["normal_priority"],
    )
    plan = _plan(asked, place)
    json_file = None if asked["json_"] in (None, "-") else Path(asked["json_"])
    check_files(asked["turn"])
    if first:
        check_files(json_file, asked["html"])
    with progress_bar(enabled=first) as progress:
        result = _run(workload, plan, place, progress, under_torchrun)
    if first:
        _deliver(result, asked["json_"] == "-", json_file, asked["html"])
    if any(variant.error for variant in result.variants):
        sys.exit(1)


def _device(asked: str | None) -> str:
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise BenchError(f"there is no GPU; this works without one: {ON_THE_CPU}")
    if asked is None and not torch.cuda.is_available():
        raise BenchError(f"there is no GPU; to measure on the CPU, run: {ON_THE_CPU}")
    return asked or "cuda"


def _workload(asked: dict[str, Any], device: str) -> Workload:
    from domino_compile.tools.bench.workload import Workload

    chosen = {
        name: default if asked[name] is None else asked[name]
        for name, default in DEFAULTS[device].items()
    }
    if asked["tp"] is None and "WORLD_SIZE" in os.environ:
        chosen["tp"] = int(os.environ["WORLD_SIZE"])
    shape = shape_of(chosen["model"])
    dropout = asked["dropout"]
    if dropout is None:
        dropout = 0.1 if shape.kind == "gpt" else 0.0
    return Workload(
        **chosen,
        layers=asked["layers"] or shape.layers,
        style=asked["style"],
        training=not asked["forward_only"],
        head=asked["head"],
        dropout=0.0 if asked["forward_only"] else dropout,
        ac=asked["ac"],
        granularity=asked["granularity"],
    )


def _plan(asked: dict[str, Any], place: Place) -> Plan:
    from domino_compile.tools.bench.run import Plan
    from domino_compile.tools.bench.variants import parse_variants

    for name in ("rounds", "steps"):
        if asked[name] < 1:
            raise BenchError(f"--{name} must be at least 1, not {asked[name]}")
    return Plan(
        parse_variants(asked["variants"] or _default_variants(place)),
        rounds=asked["rounds"],
        steps=asked["steps"],
        cuda_graphs=not asked["no_cuda_graphs"],
        float64=asked["float64"],
        traces=asked["traces"],
        link=_planned_link(asked, place),
        turn=asked["turn"],
    )


def _planned_link(asked: dict[str, Any], place: Place) -> str | None:
    from domino_compile.links import load_link

    link: str | None = asked["planned_link"] or place.link
    if link is not None:
        load_link(link)
    return link


def _default_variants(place: Place) -> str:
    return VARIANTS[place.device] + (",free" if place.can_be_free else "")


def _link(asked: dict[str, Any], device: str, under_torchrun: bool) -> str | None:
    from domino_compile.links import load_link

    link: str | None = asked["link"]
    if link is not None:
        load_link(link)  # report a wrong name at once, not from a rank
    if not under_torchrun:
        return link or LINKS[device]
    if link is not None and device == "cuda":
        raise BenchError("under torchrun the real links of the GPUs are measured: remove --link")
    return link


def _run(
    workload: Workload, plan: Plan, place: Place, progress: Progress, under_torchrun: bool
) -> BenchResult:
    command = shlex.join(["domino", *sys.argv[1:]])
    try:
        if place.device == "cpu" and not under_torchrun:
            from domino_compile.tools.bench.launch import run_on_gloo_ranks

            return run_on_gloo_ranks(workload, plan, place, command, progress)
        from domino_compile.tools.bench.run import run

        return run(workload, plan, place, command, progress)
    except Exception as error:
        if under_torchrun:
            _end_rank(error)
        if isinstance(error, RanksError):
            fail(str(error), 1)
        raise


def _end_rank(error: Exception) -> NoReturn:
    """End a rank of torchrun, which then ends the others; the first to fail reports why."""
    from domino_compile.tools.bench.world import first_to_fail

    known = isinstance(error, DominoError)
    bad_input = known and not isinstance(error, RanksError)
    message = first_line(error) if known else f"{type(error).__name__}: {first_line(error)}"
    if first_to_fail():
        rank = "" if bad_input else f"rank {os.environ['RANK']}: "
        click.echo(f"error: {rank}{message}", err=True)
    sys.exit(2 if bad_input else 1)


def _deliver(
    result: BenchResult, print_it: bool, json_file: Path | None, html: Path | None
) -> None:
    """Print the result before writing files, so that a full disk does not lose it."""
    from domino_compile.tools.bench.show import page

    if print_it:
        print_json(result.rounded())
    else:
        _show(result)
    if json_file is not None:
        json_file.write_text(result.to_json(), encoding="utf-8")
    if html is not None:
        html.write_text(page(result), encoding="utf-8")


def _show(result: BenchResult) -> None:
    from domino_compile.tools.bench.show import table

    link = f"emulated link {result.link}" if result.emulated else f"real link ({result.link})"
    show_table(
        *table(result),
        title=f"{result.model}, {result.layers} layers, batch {result.batch} x {result.seq}, "
        f"TP={result.tp}, {'training' if result.training else 'forward only'}; {link}; "
        f"{result.device}, CUDA graphs {'on' if result.cuda_graphs else 'off'}",
    )
    for variant in result.variants:
        if variant.error:
            warn(f"{variant.variant} failed: {variant.error}")
