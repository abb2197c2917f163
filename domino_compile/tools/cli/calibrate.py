"""``domino calibrate``: measure this machine's collectives and rates on a real process group."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import signal
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from domino_compile.cost.rates_file import VARIABLE
from domino_compile.errors import first_line
from domino_compile.host.launch import (
    PROGRESS_LINES,
    RanksError,
    end_at_once,
    progress_line,
    run_ranks,
)
from domino_compile.links import busbw_factor
from domino_compile.links.user import links_folder
from domino_compile.tools.calibrate.settings import (
    DEFAULT_ROUNDS,
    DEFAULT_SIZES,
    CalibrateError,
    Settings,
    check_group_sizes,
    check_writable,
    parse_group_sizes,
    parse_sizes,
)
from domino_compile.tools.cli.show import (
    Progress,
    digits,
    examples,
    fail,
    json_option,
    print_json,
    progress_bar,
    say,
    show_table,
    size_text,
)

if TYPE_CHECKING:
    from domino_compile.tools.calibrate.ranks import Place
    from domino_compile.tools.calibrate.run import Calibration

_FILE = click.Path(dir_okay=False, path_type=Path)


class _Range(click.FloatRange):
    """A range that refuses ``nan``, which is neither below nor above any limit."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


@click.command(
    epilog=examples(
        "torchrun --nproc-per-node 8 -m domino_compile calibrate",
        "torchrun --nproc-per-node 8 -m domino_compile calibrate --group-size 2,4,8",
        "domino calibrate --ranks 2 --sizes 64K,1MiB,16MiB    (gloo, on the CPU)",
    )
)
@click.option("--ranks", type=click.IntRange(min=1), help="Start this many gloo ranks on the CPU.")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), help="Default: a GPU if there is one."
)
@click.option("--name", help="Name of the link table.  [device and group size]")
@click.option("--out", type=_FILE, help="File of the link table.  [NAME.json in your links folder]")
@click.option("--rates-out", type=_FILE, help="File of the device's rates.  [in your folder]")
@click.option("--group-size", help="Group sizes to measure, such as 2,4,8.  [all ranks]")
@click.option("--sizes", help="Payloads, like 64K,1MiB,32MiB.  [16K to 64M; GPU: 64K to 1G]")
@click.option(
    "--rounds", type=click.IntRange(min=1), help="Rounds per measurement; the median counts."
)
@click.option(
    "--round-ms",
    type=_Range(min=0, max=1e6, min_open=True),
    default=20.0,
    show_default=True,
    help="Minimum duration of a round; short calls are repeated.",
)
@click.option(
    "--ctas",
    type=click.IntRange(min=1),
    help="Thread blocks that a collective holds, for the table.  [GPU: measured, CPU: 16]",
)
@click.option(
    "--timeout",
    type=_Range(min=1, max=86_400),
    default=300.0,
    show_default=True,
    help="How many seconds ranks wait for each other.",
)
@json_option
def calibrate(ranks: int | None, as_json: bool, **asked: Any) -> None:
    """Measure the collectives of a real process group, and the device's rates.

    The times of all-reduce, reduce-scatter and all-gather make a link table, which emulated groups
    and the option "link" can use. The rates of matrix products, attention, memory and launches go
    to a file for DOMINO_COMPILE_RATES. Start this under torchrun on an idle machine. It measures
    NCCL (or RCCL) on GPUs and gloo on the CPU.
    """
    from domino_compile.tools.calibrate.ranks import place_in

    place = place_in(os.environ)
    if ranks is not None and place is not None:
        fail("--ranks starts its own ranks: leave it out under torchrun")
    try:
        settings = _settings(asked, "cpu" if ranks is not None else asked["device"])
    except CalibrateError as error:
        raise click.UsageError(str(error), click.get_current_context()) from None
    if ranks is not None:
        result = _on_new_ranks(ranks, settings)
    elif place is None:
        fail(f"no process group is running; start one with: {_torchrun_line(settings)}")
    else:
        result = _as_rank(place, settings)
        if place.rank:
            return
    if as_json:
        print_json(result)
    else:
        _show(result)


def _settings(asked: dict[str, Any], device: str | None) -> Settings:
    import torch

    if asked["device"] == "cuda" and device == "cpu":
        raise CalibrateError("--ranks is for the CPU; for GPUs start under torchrun, without it")
    if device == "cuda" and not torch.cuda.is_available():
        raise CalibrateError("no GPU here; measure gloo on the CPU with --device cpu")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    sizes, groups = asked["sizes"], asked["group_size"]
    return Settings(
        device=device,
        sizes=DEFAULT_SIZES[device] if sizes is None else parse_sizes(sizes),
        rounds=asked["rounds"] or DEFAULT_ROUNDS[device],
        round_s=asked["round_ms"] / 1e3,
        group_sizes=() if groups is None else parse_group_sizes(groups),
        name=asked["name"],
        out=asked["out"],
        rates_out=asked["rates_out"],
        ctas=asked["ctas"],
        timeout_s=asked["timeout"],
    )


def _given(*left_out: str) -> list[str]:
    """Return the options of this command that were given, as arguments."""
    context = click.get_current_context()
    arguments = []
    for name, value in context.params.items():
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if not given or name in left_out:
            continue
        if value is True:
            arguments.append("--json")
        else:
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    return arguments


def _torchrun_line(settings: Settings) -> str:
    """Return the command that starts the requested measurement."""
    import torch

    on_gpus = settings.device == "cuda"
    count = max(2, torch.cuda.device_count() if on_gpus else 2, *settings.group_sizes)
    arguments = shlex.join(["-m", "domino_compile", "calibrate", *_given()])
    line = f"torchrun --nproc-per-node {count} {arguments}"
    return line if on_gpus else f"{line} (or, gloo on the CPU alone, add: --ranks {count})"


def _on_new_ranks(count: int, settings: Settings) -> dict[str, Any]:
    """Start gloo ranks and return what rank 0 printed. Bad input is refused before they start."""
    check_group_sizes(settings.group_sizes, count)
    for path in (settings.out, settings.rates_out):
        if path is not None:
            check_writable(path)
    arguments = ["-m", "domino_compile", "calibrate", "--device", "cpu", "--json"]
    arguments += _given("ranks", "device", "as_json")
    try:
        with progress_bar() as progress:
            printed = run_ranks(count, arguments, progress)
    except RanksError as error:
        fail(str(error), 1)
    try:
        result: dict[str, Any] = json.loads(printed)
    except ValueError:
        fail(f"rank 0 printed no result; it printed: {printed[:200]!r}", 1)
    return result


def _as_rank(place: Place, settings: Settings) -> dict[str, Any]:
    """Measure as one rank under torchrun. A failure here ends the process at once.

    torchrun then ends the other ranks. A regular exit could wait for them in a destructor.
    """
    from domino_compile.tools.calibrate.ranks import Ranks
    from domino_compile.tools.calibrate.run import calibrate as run

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # also while a collective waits
    ranks = Ranks(place, settings.device, settings.timeout_s)
    try:
        with _rank_progress(place) as progress:
            return _as_data(run(ranks, settings, progress))
    except CalibrateError as error:
        message, code = str(error), error.code
    except (RuntimeError, OSError, MemoryError, ValueError) as error:
        message, code = f"rank {place.rank}: {type(error).__name__}: {first_line(error)}", 1
    if ranks.first_to_fail():
        click.echo(f"error: {message}", err=True)
    end_at_once(code)


@contextlib.contextmanager
def _rank_progress(place: Place) -> Iterator[Progress]:
    """Show a bar on rank 0, or lines if another process started the ranks and reads them."""
    if place.rank == 0 and PROGRESS_LINES in os.environ:
        yield lambda text, share: click.echo(progress_line(text, share), err=True)
        return
    with progress_bar(enabled=place.rank == 0) as progress:
        yield progress


def _as_data(calibration: Calibration) -> dict[str, Any]:
    """Return the result as one JSON object."""
    links = [
        {
            "name": table.name,
            "file": str(path),
            "ranks": table.ranks,
            "nodes": table.nodes,
            "source": table.source,
            "note": table.note,
            "contention": None if table.contention is None else asdict(table.contention),
            "collectives": {
                name: {
                    "floor_us": curve.floor_us,
                    "size_bytes": [size for size, _ in curve.points],
                    "time_us": [time_us for _, time_us in curve.points],
                    "raised_bytes": list(calibration.raised[table.name].get(name, ())),
                }
                for name, curve in table.curves.items()
            },
        }
        for table, path in calibration.tables
    ]
    rates = calibration.rates.as_json() | {"file": str(calibration.rates_file)}
    return {"emulated": False, "links": links, "rates": rates}


def _show(result: dict[str, Any]) -> None:
    for link in result["links"]:
        _show_link(link)
    rates = result["rates"]
    rows = [[name, digits(value)] for name, value in rates["rates"].items()]
    show_table(["rate", "value"], rows, title=f"Rates, measured: {rates['device']}")
    if not result["links"]:
        say("One rank has no link to measure: start as many ranks as the group has.")
    for link in result["links"]:
        click.echo(f"link table: {link['file']}")  # a path is not folded: it is to be copied
        click.echo(f'  use it: options={{"link": {json.dumps(_mention(link))}}}')
    click.echo(f"rates: {rates['file']}")
    click.echo(f"  use them: {VARIABLE}={shlex.quote(rates['file'])} on every rank")


def _mention(link: dict[str, Any]) -> str:
    """Return the name of a table in the user's folder, or the absolute path of any other's file.

    A path without a separator would be read as a name, and a relative one would not be found by a
    program that runs in another folder.
    """
    path = Path(link["file"]).absolute()
    return str(link["name"] if path == links_folder() / f"{link['name']}.json" else path)


def _show_link(link: dict[str, Any]) -> None:
    """Show one row per payload: each collective's milliseconds, and all_reduce's bus bandwidth."""
    curves = link["collectives"]
    factor = busbw_factor("all_reduce", link["ranks"])
    rows = []
    for position, size in enumerate(curves["all_reduce"]["size_bytes"]):
        times = [curve["time_us"][position] for curve in curves.values()]
        busbw = size / times[0] * factor / 1e3
        rows.append([size_text(size), *(digits(time / 1e3) for time in times), digits(busbw)])
    title = f"{link['name']}, measured on {link['ranks']} ranks, {link['nodes']} node(s): ms"
    show_table(["payload", *curves, "GB/s"], rows, title=title)
    say(link["source"])
    say(link["note"])
    if (contention := link.get("contention")) is not None:
        say(_contention_text(contention))
    say("")


def _contention_text(found: dict[str, Any]) -> str:
    slowed = [f"{name} {digits(times)}" for name, times in found["collectives"].items()]
    return (
        f"When both run at once, products take {digits(found['products'])} times as long, copies"
        f" {digits(found['memory'])}, {', '.join(slowed)}; compute regains"
        f" {found['regained']:.0%} of the time that it waits."
    )
