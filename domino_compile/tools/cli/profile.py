"""``domino profile``: where the time of a script's steps goes, and what overlap could gain."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from domino_compile.tools.cli.outputs import Outputs, facts, output_options
from domino_compile.tools.cli.scripts import (
    CONTEXT,
    behind_script,
    group_rows,
    ms_text,
    out_option,
    prepare,
    processes,
    script_failures,
    script_options,
    under_torchrun,
)
from domino_compile.tools.cli.show import (
    examples,
    fail,
    json_option,
    print_json,
    progress_bar,
    say,
    show_table,
)

if TYPE_CHECKING:
    from domino_compile.tools.html import ReportData
    from domino_compile.tools.profiling.measured import RankMeasured
    from domino_compile.tools.profiling.result import ProfileResult
    from domino_compile.tools.profiling.script import Request

EXIT_CODES = """\b
Exit codes:
  0    measured
  1    nothing to measure: no compile, no collective, too few steps; or a rank died
  2    bad input, or it cannot run here
  130  interrupted
  else the script failed: its own exit code"""


@click.command(
    context_settings=CONTEXT,
    epilog=examples(
        "domino profile --html report.html train.py --epochs 1",
        "domino profile --ranks 2 --link demo-2 train.py     (CPU ranks, emulated link)",
        "torchrun --nproc-per-node 8 -m domino_compile profile train.py",
    )
    + "\n\n"
    + EXIT_CODES,
)
@script_options
@click.option("--traced", type=click.IntRange(min=1), default=3, show_default=True,
              help="Steps under torch's profiler, after the timed ones.")  # fmt: skip
@out_option("out/profile")
@output_options
@json_option
def profile(
    script: Path,
    arguments: tuple[str, ...],
    ranks: int | None,
    link: str | None,
    steps: int,
    warmup: int,
    traced: int,
    out: Path,
    as_json: bool,
    html: Path | None,
    png: Path | None,
    trace: Path | None,
) -> None:
    """Run some steps of SCRIPT, unmodified, and show where their time goes.

    A step ends when the script's optimizer steps; without an optimizer, after each backward;
    without either, at each call of a compiled graph. The result shows how long a step takes, how
    much of it is compute, how much communication is exposed, and how much of that overlap could
    gain. The script is ended once enough has been measured. Under torchrun it uses torchrun's
    ranks. Everything behind SCRIPT goes to the script.
    """
    os.environ.setdefault("TORCHINDUCTOR_CPP_ENABLE_KERNEL_PROFILE", "1")  # before torch is loaded
    from domino_compile.tools.profiling.earlier import TIMELINES, remove_files, remove_result
    from domino_compile.tools.profiling.script import Request
    from domino_compile.tools.profiling.session import Phases

    outputs = Outputs(html, png, trace)
    outputs.check()
    prepare(script, out)
    arguments = behind_script(script, arguments, "profile")
    request = Request(script, arguments, phases=Phases(warmup, steps, traced), folder=out / "ranks")
    if under_torchrun() and (ranks is not None or link is not None):
        fail("--ranks and --link start their own ranks: leave them out under torchrun")
    if os.environ.get("RANK", "0") == "0":
        remove_result(out)
        remove_files(out, TIMELINES)
    if under_torchrun():
        result = _as_rank(request, as_json)
        if result is None:
            return
    else:
        result = _on_new_ranks(request, *processes(ranks, link), link or "")
    _write(result, out)
    if as_json:
        print_json(result.as_dict())
    else:
        _show(result, out)
    if outputs:
        outputs.write(_report(result))


def _on_new_ranks(request: Request, count: int, emulated_ranks: int, link: str) -> ProfileResult:
    from dataclasses import replace

    from domino_compile.tools.profiling.ranks import run_on_ranks

    request = replace(request, link=link, alone=emulated_ranks)
    with script_failures(), progress_bar() as progress:
        outcomes = run_on_ranks(request, count, progress)
        for outcome in outcomes:
            outcome.check(request)
    return _result(request, [o.measured for o in outcomes if o.measured is not None])


def _as_rank(request: Request, as_json: bool) -> ProfileResult | None:
    """Measure as one of torchrun's ranks; return None on all but the first."""
    from domino_compile.tools.profiling.context import shared
    from domino_compile.tools.profiling.script import run

    everyone: list[RankMeasured] = []

    def finished(mine: RankMeasured) -> None:
        everyone.extend(shared(mine))

    first = os.environ["RANK"] == "0"
    stream = sys.stderr if as_json else sys.stdout
    with contextlib.redirect_stdout(stream), progress_bar(enabled=first) as progress:
        outcome = run(request, progress, finished)
    if outcome.code:
        sys.exit(outcome.code)
    if not first:
        return None
    with script_failures():
        outcome.check(request)
    if not everyone and outcome.measured is not None:
        everyone.append(outcome.measured)
    return _result(request, everyone)


def _result(request: Request, ranks: list[RankMeasured]) -> ProfileResult:
    from domino_compile.tools.profiling.result import profile_result

    notes = []
    first = ranks[0]
    if len(ranks) < first.ranks and not request.alone:
        notes.append(
            f"The script ended before all steps were seen: these are rank {first.rank}'s numbers, "
            "not agreed with the other ranks."
        )
    if request.alone:
        notes.append(
            f"One process stands for one of {request.alone} ranks: the collectives take the time "
            "of the link table, and no numbers travel."
        )
    command = shlex.join([str(request.script), *request.arguments])
    return profile_result(ranks, command, notes)


def _write(result: ProfileResult, out: Path) -> None:
    from domino_compile.tools.profiling.earlier import RESULT

    folder = out / "timelines"
    folder.mkdir(parents=True, exist_ok=True)
    (out / RESULT).write_text(result.to_json(), encoding="utf-8")
    for line in result.timelines:
        path = folder / f"measured.rank_{line.rank}.json"
        path.write_text(json.dumps(line.as_dict(), indent=1) + "\n", encoding="utf-8")


def _report(result: ProfileResult) -> ReportData:
    from domino_compile.tools.html import Table
    from domino_compile.tools.html.measured import profile_report

    data = result.as_dict()
    tables = [Table("A step", STEP_COLUMNS, tuple(map(tuple, _step_rows(result, data))))]
    groups = tuple(map(tuple, group_rows(data["groups"])))
    tables.append(Table("By process group", GROUP_COLUMNS, groups))
    about = facts(link=_link(result), ranks=str(result.ranks), device=result.device)
    return profile_report(result, about, tables)


#: A smaller rest of the step is not shown.
REST_MS = 0.005
STEP_COLUMNS = ("", "ms", "")
GROUP_COLUMNS = ("group", "collectives", "wire ms", "exposed ms", "hidden ms")


def _link(result: ProfileResult) -> str:
    return f"emulated link {result.link}" if result.emulated else "real link"


def _step_rows(result: ProfileResult, data: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the table that shows how a step's time is spent."""
    low, high = data["quartiles_ms"]
    rows = [
        ["step", ms_text(data["step_ms"]), f"median of {data['steps']}; middle half "
         f"{ms_text(low)} to {ms_text(high)}"],
        ["computing", ms_text(data["compute_ms"]), f"utilisation {data['utilisation']:.0%}"
         + (" of the GPU" if result.device != "cpu" else " (CPU: not in a wait; Python counts)")],
        ["on the wire", ms_text(data["wire_ms"]), f"{data['collectives']:g} collectives"],
        ["exposed", ms_text(data["exposed_ms"]), f"{_part(data)} of the step"],
        ["hidden", ms_text(data["hidden_ms"]), "while something computes"],
    ]  # fmt: skip
    if data["late_ms"]:
        rows.append(["late", ms_text(data["late_ms"]), "still waiting after the emulated "
                     "transfer ended, for slower ranks or the real transport"])  # fmt: skip
    if data["rest_ms"] > REST_MS:
        rows.append(["neither", ms_text(data["rest_ms"]), "nothing computes and nothing is in "
                     "flight: the host is late"])  # fmt: skip
    bound = ms_text(data["recommendation"]["bound_ms"])
    return [*rows, ["bound", bound, "best possible step with perfect overlap"]]


def _show(result: ProfileResult, out: Path) -> None:
    data = result.as_dict()
    say(
        f"{result.script}: {result.ranks} ranks, {result.device}, {_link(result)}; a step ends "
        f"with: {result.step_ends}"
    )
    show_table(STEP_COLUMNS, _step_rows(result, data), wrap=True)
    if len(data["groups"]) > 1:
        show_table(GROUP_COLUMNS, group_rows(data["groups"]), title="By process group")
    say(result.recommendation.text)
    for note in result.notes:
        say(note)
    say(
        f"Times of rank {data['account_rank']}, the slowest; computing, exposed, late and neither "
        f"add up to the step. Times of collectives: {result.account_from}. Result and timelines: "
        f"{out}"
    )


def _part(data: dict[str, Any]) -> str:
    return f"{data['recommendation']['share']:.0%}"
