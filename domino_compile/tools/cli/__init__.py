"""The command line ``domino``. Its commands are listed in ``main.py``."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run ``domino`` with the process's arguments, and exit with its code."""
    if sys.argv[1:2] == ["run"]:  # runs a user's program directly, without extra packages
        from domino_compile.tools.scripts.command import main as run_program

        sys.exit(run_program(sys.argv[2:]))
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ImportError:
        print(
            "error: domino's command line needs click and rich: run pip install '.[report]' in the"
            " folder of its source",
            file=sys.stderr,
        )
        sys.exit(2)
    from domino_compile.tools.cli.main import end_cleanly_on_sigterm, ranks_end_at_once, run

    end_cleanly_on_sigterm()
    with ranks_end_at_once():
        sys.exit(run(sys.argv[1:]))
