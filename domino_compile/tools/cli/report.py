"""``domino report``: the contents of a dump as a table, a page, a picture or a trace."""

from __future__ import annotations

from pathlib import Path

import click

from domino_compile.tools.cli.outputs import Outputs, facts, output_options, show_explanation
from domino_compile.tools.cli.show import examples, json_option, print_json


@click.command(
    epilog=examples(
        "DOMINO_COMPILE_DUMP_DIR=dump torchrun --nproc-per-node 8 train.py",
        "domino report dump --html report.html",
        "domino report dump --rank 3 --json",
    )
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--rank", type=click.IntRange(min=0), help="The rank whose graphs are shown.  [the "
              "lowest]")  # fmt: skip
@output_options
@json_option
def report(
    folder: Path,
    rank: int | None,
    as_json: bool,
    html: Path | None,
    png: Path | None,
    trace: Path | None,
) -> None:
    """Show what a compile with the option dump_dir wrote to FOLDER.

    The table is the same as that of domino explain. Times are predicted, not measured.
    """
    from domino_compile.report.explanation import explanation_of
    from domino_compile.tools.html import (
        ReportData,
        candidate_tables,
        explained_tiles,
        explained_verdict,
        read_dump,
    )
    from domino_compile.tools.timelines import predicted

    outputs = Outputs(html, png, trace)
    outputs.check()
    dump = read_dump(folder, rank)
    explanation = explanation_of(dump.reports)
    if as_json:
        print_json(explanation.as_dict())
    else:
        show_explanation(explanation)
    if outputs:
        outputs.write(
            ReportData(
                title=f"domino report: {folder.resolve().name}, rank {dump.rank}",
                facts=facts(options=dump.reports[0].options),
                explanation=explanation,
                timelines=predicted(dump.reports, dump.rank),
                graphs=dump.graphs,
                tables=candidate_tables(dump.reports),
                verdict=explained_verdict(explanation),
                tiles=explained_tiles(explanation, dump.reports),
            )
        )
