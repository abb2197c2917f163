"""``domino poc``: the same script with and without domino, and a verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from domino_compile.ratio import factor_text
from domino_compile.tools.cli.outputs import Outputs, facts, output_options
from domino_compile.tools.cli.scripts import (
    CONTEXT,
    behind_script,
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
    from domino_compile.tools.poc.result import PocResult

EXIT_CODES = """\b
Exit codes:
  0    faster, and training is equal within noise and rounding
  1    the script failed (its traceback is shown), or has nothing to overlap
  2    bad input, or it cannot run here
  3    not faster
  4    training differs, or ends with numbers that are not finite
  130  interrupted"""
#: How many steps of the curves are shown.
SHOWN_STEPS = 6


@click.command(
    context_settings=CONTEXT,
    epilog=examples(
        "domino poc --steps 20 --html report.html train.py",
        "domino poc --rounds 3 train.py --steps 1000         (behind the script: its own options)",
        "domino poc --ranks 2 --link demo-2 train.py         (CPU ranks, emulated link)",
        "domino poc --ranks 8 --link h200-nvlink-8 train.py  (one GPU, emulated link)",
        "domino poc --slices 4 --option memory_cap=0.2 train.py",
    )
    + "\n\n"
    + EXIT_CODES,
)
@script_options
@click.option("--rounds", type=click.IntRange(min=1), default=2, show_default=True,
              help="Runs of each variant; two or more show the baseline's noise.")  # fmt: skip
@click.option("--slices", type=click.IntRange(min=1), help="Slices of the batch.")
@click.option("--columns", type=click.IntRange(min=1), help="Parts that columns are cut into.")
@click.option("--option", "chosen", metavar="NAME=VALUE", multiple=True,
              help="Any option of the backend; may be repeated.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0, max=2**32 - 1), default=0, show_default=True,
              help="Seed of torch, Python and NumPy, set before the script begins.")  # fmt: skip
@out_option("out/poc")
@output_options
@json_option
def poc(
    script: Path,
    arguments: tuple[str, ...],
    ranks: int | None,
    link: str | None,
    steps: int,
    warmup: int,
    rounds: int,
    chosen: tuple[str, ...],
    seed: int,
    out: Path,
    as_json: bool,
    html: Path | None,
    png: Path | None,
    trace: Path | None,
    **parts: int | None,
) -> int:
    """Run SCRIPT with Inductor alone and with domino, alternating, and compare them.

    The script is not edited: its torch.compile calls use one backend or the other, with the same
    seeds, in fresh processes. The comparison covers step time, utilisation, exposed communication
    and peak memory. It also checks that training is equal: losses and gradient norms may differ by
    no more than the baseline's own runs do. The command ends with a verdict and an exit code.
    Everything behind SCRIPT goes to the script.
    """
    if under_torchrun():
        fail("domino poc starts its own ranks, several times: run it without torchrun "
             "(--ranks sets their number)")  # fmt: skip
    from domino_compile.tools.poc.run import Plan, run
    from domino_compile.tools.profiling.session import Phases
    from domino_compile.tools.scripts.options import parsed_options

    outputs = Outputs(html, png, trace)
    outputs.check()
    options = {name: value for name, value in parts.items() if value is not None}
    options = parsed_options(chosen, options)
    if options.get("disable"):
        fail("--option disable switches domino off, so there is nothing to compare: leave it out")
    prepare(script, out)
    arguments = behind_script(script, arguments, "poc")
    count, emulated_ranks = processes(ranks, link)
    plan = Plan(script, arguments, count, emulated_ranks, link or "", Phases(warmup, steps), rounds,
                options, seed, out)  # fmt: skip
    with script_failures(1), progress_bar() as progress:
        result = run(plan, progress)
    _write(result, out)
    if as_json:
        print_json(result.as_dict())
    else:
        _show(result, out)
    if outputs:
        outputs.write(_report(result, out))
    return result.verdict.code


def _write(result: PocResult, out: Path) -> None:
    from domino_compile.tools.profiling.earlier import RESULT

    folder = out / "timelines"
    folder.mkdir(parents=True, exist_ok=True)
    (out / RESULT).write_text(result.to_json(), encoding="utf-8")
    for variant, lines in result.timelines.items():
        for line in lines:
            path = folder / f"{variant}.rank_{line.rank}.json"
            path.write_text(json.dumps(line.as_dict(), indent=1) + "\n", encoding="utf-8")


def _report(result: PocResult, out: Path) -> ReportData:
    from domino_compile.tools.html import Table
    from domino_compile.tools.html.measured import poc_report

    data = result.as_dict()
    before, after = _both(data)
    rows = tuple(tuple(_row(title, before[key], after[key])) for title, key in _ROWS)
    numbers = Table("Numbers", ("", *COLUMNS[1:]), rows)
    about = facts(link=_link(data), ranks=str(data["ranks"]), device=data["device"])
    return poc_report(result, about, [numbers], out / "dumps")


def _link(data: dict[str, Any]) -> str:
    return f"emulated link {data['link']}" if data["emulated"] else "real link"


def _both(data: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    before, after = (data["variants"][name] for name in ("inductor", "domino"))
    return before, after


def _show(result: PocResult, out: Path) -> None:
    data = result.as_dict()
    link = _link(data)
    before, after = _both(data)
    rounds = "1 round" if data["rounds"] == 1 else f"{data['rounds']} rounds"
    say(
        f"{result.script}: {data['ranks']} ranks, {data['device']}, {link}; {rounds} "
        f"of {data['steps']} steps; a step ends with: {data['step_ends']}"
    )
    show_table(
        COLUMNS,
        [_row(title, before[key], after[key]) for title, key in _ROWS],
    )
    _show_curves(before, after)
    for graph in data["graphs"]:
        say(graph)
    say(result.verdict.text)
    for note in result.notes:
        say(note)
    say(f"Times of collectives: {data['account_from']}. Peak: {data['peak_of']}.")
    say(f"Result, timelines, dumps, and what the script printed: {out}")


COLUMNS = ("", "Inductor", "domino", "change")
_ROWS = (
    ("step ms, median", "step_ms"),
    ("step ms, middle half", "quartiles_ms"),
    ("total ms", "total_ms"),
    ("utilisation", "utilisation"),
    ("on the wire ms", "wire_ms"),
    ("exposed ms", "exposed_ms"),
    ("late ms", "late_ms"),
    ("peak MiB", "peak_mib"),
    ("compile s", "compile_s"),
)


def _row(title: str, before: Any, after: Any) -> list[str]:
    if title == "utilisation":
        return [title, f"{before:.0%}", f"{after:.0%}", ""]
    if isinstance(before, list):
        return [title, *("-".join(map(ms_text, pair)) for pair in (before, after)), ""]
    change = ""
    if before and after is not None:
        is_step = title.startswith("step")
        change = factor_text(before, after) if is_step else f"{after / before - 1:+.0%}"
    return [title, ms_text(before), ms_text(after), change]


def _show_curves(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Show some steps of both curves, including the first and the last."""
    losses = list(zip(before["losses"], after["losses"], strict=False))
    norms = list(zip(before["grad_norms"], after["grad_norms"], strict=False))
    if not losses or losses[-1][0] is None:
        return
    last = len(losses) - 1
    count = min(SHOWN_STEPS, len(losses))
    steps = sorted({round(n * last / max(1, count - 1)) for n in range(count)})
    show_table(
        ["step", "loss, Inductor", "loss, domino", "grad norm, Inductor", "grad norm, domino"],
        [[str(n), *map(_number, (*losses[n], *norms[n]))] for n in steps],
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
