"""Run a script on ranks of this machine and collect the outcome of each."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from domino_compile.host.launch import RanksError, run_ranks
from domino_compile.tools.profiling.earlier import RANK_FILES, remove_files
from domino_compile.tools.profiling.script import Outcome, Request
from domino_compile.tools.profiling.session import Progress
from domino_compile.tools.scripts import ScriptError

#: Lines of a failed rank's output that are shown where it has no traceback.
LAST_LINES = 20
_TRACEBACK = "Traceback (most recent call last)"


class ScriptFailed(ScriptError):
    """The script failed on a rank.

    Attributes:
        code: The exit code of the script.
        shown: The traceback, or the last lines of the script's output.
    """

    def __init__(self, message: str, code: int, shown: str) -> None:
        super().__init__(message)
        self.code, self.shown = code, shown


def run_on_ranks(
    request: Request, count: int, progress: Progress, environment: Mapping[str, str] | None = None
) -> list[Outcome]:
    """Run a request on ``count`` processes of this machine.

    Raises:
        ScriptFailed: The script ended with another exit code than 0.
        RanksError: A rank was killed or left no result, or the ranks could not be started.
    """
    request.folder.mkdir(parents=True, exist_ok=True)
    remove_files(request.folder, RANK_FILES)
    asked = request.folder / "request.json"
    asked.write_text(json.dumps(request.as_dict(), indent=1), encoding="utf-8")
    arguments = ["-m", "domino_compile.tools.profiling.rank", str(asked)]
    try:
        run_ranks(count, arguments, progress, rank_environment() | dict(environment or {}))
    except RanksError as error:
        raise _failure(request, count) or RanksError(
            f"{error}; what the script printed: {request.folder}/rank_*.log"
        ) from error
    return _outcomes(request, count)


def rank_environment() -> dict[str, str]:
    """Return what ranks need to trace Inductor's C++ kernels, where nothing else is asked for."""
    environment = {"PYTHONUNBUFFERED": "1"}
    kernels = "TORCHINDUCTOR_CPP_ENABLE_KERNEL_PROFILE"
    return environment | {kernels: os.environ.get(kernels, "1")}


def _outcomes(request: Request, count: int) -> list[Outcome]:
    """Return what every rank left; each must have: one that ends its process by itself has not."""
    outcomes = []
    for rank in range(count):
        path = request.folder / f"rank_{rank}.json"
        if not path.is_file():
            raise RanksError(
                f"{request.script} ended the process of rank {rank} before it could say what it "
                f"measured (os._exit?); what it printed: {path.with_suffix('.log')}"
            )
        outcomes.append(Outcome.from_dict(json.loads(path.read_text(encoding="utf-8"))))
    return outcomes


def _failure(request: Request, count: int) -> ScriptError | None:
    """Return the failure that came first: the others are its consequences."""
    failures = []
    for rank in range(count):
        path = request.folder / f"rank_{rank}.json"
        if path.is_file():
            outcome = Outcome.from_dict(json.loads(path.read_text(encoding="utf-8")))
            if outcome.code:
                failures.append((outcome.ended_s, rank, outcome.code, outcome.error))
    if not failures:
        return None
    _, rank, code, advice = min(failures)
    if advice:
        return ScriptError(advice)
    said = (request.folder / f"rank_{rank}.log").read_text(encoding="utf-8", errors="replace")
    return ScriptFailed(
        f"{request.script} ended with exit code {code} on rank {rank}", code, _last_words(said)
    )


def _last_words(said: str) -> str:
    begin = said.rfind(_TRACEBACK)
    if begin >= 0:
        return said[begin:].strip()
    return "\n".join(said.strip().splitlines()[-LAST_LINES:])
