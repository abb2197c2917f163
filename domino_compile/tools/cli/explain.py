"""``domino explain``: the treatment of each collective of a script, and how to change it."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from domino_compile.tools.cli.outputs import Outputs, facts, output_options, show_explanation
from domino_compile.tools.cli.scripts import CONTEXT, behind_script
from domino_compile.tools.cli.show import (
    examples,
    fail,
    print_json,
    progress_lines,
    require_enabled,
)

if TYPE_CHECKING:
    from domino_compile.tools.html import ReportData
    from domino_compile.tools.scripts.observe import Observation


@click.command(
    context_settings=CONTEXT,
    epilog=examples(
        "domino explain train.py --epochs 1                (what is behind the script is its own)",
        "domino explain --html report.html train.py --device cuda",
        "torchrun --nproc-per-node 8 -m domino_compile explain train.py",
        "domino explain --ranks 8 --device H200 --link h200-nvlink-8 train.py   (needs no cluster)",
    ),
)
@click.argument("script", type=click.Path(path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--ranks", type=click.IntRange(min=2), help="Replace the script's process "
              "group with a fake one of this many ranks, without communication.")  # fmt: skip
@click.option("--link", help="Link table for the predictions (see: domino links).")
@click.option("--device", help="Plan for this device, such as H200.  [the device here]")
@click.option("--slices", type=click.IntRange(min=1), help="Number of slices of the batch.")
@click.option("--columns", type=click.IntRange(min=1), help="Number of column parts.")
@click.option("--calls", type=click.IntRange(min=1), default=1, show_default=True,
              help="How often a compiled graph may run before the script is stopped.")  # fmt: skip
@click.option("--require", type=click.Choice(["overlap"]), help="Exit with 1 if one is not hidden.")
@output_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; the script's "
              "output goes to stderr.")  # fmt: skip
def explain(
    script: Path,
    arguments: tuple[str, ...],
    ranks: int | None,
    calls: int,
    require: str | None,
    as_json: bool,
    html: Path | None,
    png: Path | None,
    trace: Path | None,
    **chosen: Any,
) -> None:
    """Run the unmodified SCRIPT until its first step is done, and explain its collectives.

    domino plans the graphs that the script compiles and runs them one operation at a time. Each
    collective gets a row: where it is in the model, which work hides it, or why none does and how
    to change that. Times are predicted, not measured. Everything behind SCRIPT is passed to it.
    """
    from domino_compile.report.explanation import OverlapError
    from domino_compile.tools.scripts.observe import ScriptError, observe

    require_enabled()
    outputs = Outputs(html, png, trace)
    options = {name: value for name, value in chosen.items() if value is not None}
    _check(script, options)
    arguments = behind_script(script, arguments, "explain")
    first = not int(os.environ.get("RANK", "0"))
    if first:
        outputs.check()
    with contextlib.ExitStack() as stack:
        if outputs and not os.environ.get("DOMINO_COMPILE_DUMP_DIR"):
            folder = tempfile.TemporaryDirectory(prefix="domino_explain_")
            options["dump_dir"] = stack.enter_context(folder)
        with (
            contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout),
            progress_lines(enabled=first) as progress,
        ):
            observation = observe(script, arguments, options, calls, ranks, progress)
        if observation.code:
            sys.exit(observation.code)
        if not first:
            return
        try:
            observation.check(script)
        except ScriptError as error:
            fail(str(error), code=1)
        if as_json:
            print_json(observation.explanation.as_dict())
        else:
            show_explanation(observation.explanation)
        if outputs:
            dumped = options.get("dump_dir") or os.environ["DOMINO_COMPILE_DUMP_DIR"]
            outputs.write(_report(script, observation, Path(dumped), chosen["link"]))
    if require:
        try:
            observation.explanation.check()
        except OverlapError as error:
            fail(str(error), code=1)


def _check(script: Path, options: Mapping[str, Any]) -> None:
    """End the command before the script runs, if something would fail only afterwards."""
    from domino_compile.options import Options
    from domino_compile.tools.scripts.run import require_file

    require_file(script)
    Options.parse(options)


def _report(script: Path, observation: Observation, folder: Path, link: str | None) -> ReportData:
    from domino_compile.tools.html import (
        ReportData,
        candidate_tables,
        explained_tiles,
        explained_verdict,
        read_dump,
    )
    from domino_compile.tools.timelines import predicted

    dump = read_dump(folder)
    return ReportData(
        title=f"domino explain: {script.name}",
        facts=facts(link=link),
        explanation=observation.explanation,
        timelines=predicted(dump.reports),
        graphs=dump.graphs,
        tables=candidate_tables(dump.reports),
        verdict=explained_verdict(observation.explanation),
        tiles=explained_tiles(observation.explanation, dump.reports),
    )
