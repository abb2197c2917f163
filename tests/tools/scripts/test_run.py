"""A script that is run in this process leaves it as it was."""

import os
import sys
from pathlib import Path

from domino_compile.tools.scripts.run import run_script


def test_a_script_may_go_to_another_folder(tmp_path: Path) -> None:
    """What the command writes afterwards is named from where the command was started."""
    script = tmp_path / "train.py"
    script.write_text("import os, sys; os.chdir('/'); sys.exit(len(sys.argv))")
    before = os.getcwd(), list(sys.argv), list(sys.path)
    assert run_script(script, ["--steps", "3"]) == 3
    assert (os.getcwd(), sys.argv, sys.path) == before
