"""``domino explain``: what becomes of every collective of a script, and what would change it."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from domino_compile.cli.show import examples, fail, print_json, say, show_table

if TYPE_CHECKING:
    from domino_compile.explanation import Explanation, Row


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=examples(
        "domino explain train.py --epochs 1",
        "torchrun --nproc-per-node 8 -m domino_compile explain train.py",
        "domino explain --ranks 8 --link h200-nvlink-8 train.py    (no cluster: a fake group)",
    ),
)
@click.argument("script", type=click.Path(path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--ranks", type=click.IntRange(min=2), help="Put a fake group of so many ranks "
              "in place of the script's own: nothing travels.")  # fmt: skip
@click.option("--link", help="Link table of the predicted times, see: domino links.")
@click.option("--slices", type=click.IntRange(min=1), help="Slices of the batch.")
@click.option("--columns", type=click.IntRange(min=1), help="Parts of products' columns.")
@click.option("--calls", type=click.IntRange(min=1), default=1, show_default=True,
              help="How often a compiled graph runs before the script is ended.")  # fmt: skip
@click.option("--require", type=click.Choice(["overlap"]), help="Exit with 1 if one is not hidden.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; what the script "
              "prints goes to stderr.")  # fmt: skip
def explain(
    script: Path,
    arguments: tuple[str, ...],
    ranks: int | None,
    calls: int,
    require: str | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Run SCRIPT as it is until its first step is done, and explain its collectives.

    Its torch.compile calls are planned by domino and run operation by operation. One row for every
    collective: where it is in the model, what hides it, or why nothing does and what would change
    that. Times are predicted, not measured.
    """
    from domino_compile.explanation import OverlapError
    from domino_compile.observe import ScriptError, observe

    options = {name: value for name, value in chosen.items() if value is not None}
    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
        found = observe(script, arguments, options, calls, ranks)
    if found.code:
        sys.exit(found.code)
    if int(os.environ.get("RANK", "0")):
        return
    try:
        found.check(script)
    except ScriptError as error:
        fail(str(error), code=1)
    if as_json:
        print_json(found.explanation.as_dict())
    else:
        _show(found.explanation)
    if require:
        try:
            found.explanation.check()
        except OverlapError as error:
            fail(str(error), code=1)


def _show(explanation: Explanation) -> None:
    for graph in explanation.graphs:
        say(graph)
    show_table(
        ["where", "phase", "collective", "bytes", "status", "exposed", "of", "hidden under"],
        [_cells(row) for row in explanation.rows],
        title="Collectives (times predicted, not measured)",
    )
    said: dict[tuple[str, str], int] = {}
    for row in explanation.rows:
        if row.reason and not row.overlapped:
            key = (row.reason, row.advice)
            said[key] = said.get(key, 0) + 1
    for (reason, advice), count in said.items():
        say(f"{count} not hidden: {reason}{f'; {advice}' if advice else ''}")


def _cells(row: Row) -> list[str]:
    from domino_compile.inspect.origin import bytes_text, time_text

    under = ", ".join(row.hidden_under[:3]) + (", ..." if len(row.hidden_under) > 3 else "")
    return [
        row.module or row.place,
        row.phase,
        row.kind,
        bytes_text(row.bytes),
        row.status,
        time_text(row.exposed_us),
        time_text(row.wire_us),
        under,
    ]
