"""A rank process of ``domino profile --ranks`` and ``domino poc``, started by torchrun.

``python -m domino_compile.tools.profiling.rank request.json`` writes ``rank_N.json`` and
``rank_N.log`` (what the script prints) to the request's folder, and says on its own stderr how far
it is.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path

from domino_compile.host.launch import end_at_once, progress_line
from domino_compile.tools.profiling.script import Outcome, Request, run
from domino_compile.tools.scripts import ScriptError


def main(path: Path) -> int:
    """Run one rank, and return the script's exit code."""
    request = Request.from_dict(json.loads(path.read_text(encoding="utf-8")))
    rank = os.environ["RANK"]
    said = os.fdopen(os.dup(2), "w", buffering=1)
    log = os.open(request.folder / f"rank_{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)

    def progress(text: str, share: float) -> None:
        if rank == "0":
            said.write(progress_line(text, share) + "\n")

    try:
        outcome = run(request, progress)
    except ScriptError as error:
        outcome = Outcome(code=1, ended_s=time.time(), error=str(error))
    written = json.dumps(outcome.as_dict())
    (request.folder / f"rank_{rank}.json").write_text(written, encoding="utf-8")
    return outcome.code


if __name__ == "__main__":
    try:
        code = main(Path(sys.argv[1]))
    except BaseException:
        traceback.print_exc()
        code = 70  # a fault of ours, not of the script
    end_at_once(code)
