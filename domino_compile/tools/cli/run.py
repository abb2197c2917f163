"""``domino run`` as one of the commands. The work is done in ``tools.scripts.command``."""

from __future__ import annotations

import click


@click.command(
    context_settings={
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
        "help_option_names": [],
    }
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(arguments: tuple[str, ...]) -> None:
    """Run an unmodified script, with domino in place of Inductor."""
    from domino_compile.tools.scripts.command import main

    try:
        code = main(arguments)
    except SystemExit as end:  # of --help
        code = int(end.code or 0)
    click.get_current_context().exit(code)
