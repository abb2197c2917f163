"""Finds environment variables that were meant for this package and have no effect."""

from __future__ import annotations

from collections.abc import Mapping

from domino_compile.errors import STRICT, did_you_mean
from domino_compile.options.options import ENVIRONMENT

PREFIX = "DOMINO_COMPILE_"
#: For our own tests and tools: known, but not offered to users.
INTERNAL = frozenset({STRICT, f"{PREFIX}PROGRESS_LINES"})


def without_effect(environment: Mapping[str, str]) -> list[str]:
    """Return one line for each variable that has no effect, with what to write instead.

    Args:
        environment: The environment, usually ``os.environ``.
    """
    known = ENVIRONMENT.keys() | INTERNAL
    lines = [
        f"the environment variable {name} has no effect{did_you_mean(name, list(ENVIRONMENT))}"
        for name in sorted(environment)
        if name.startswith(PREFIX) and name not in known
    ]
    on = environment.get("DOMINO_COMPILE_ENABLE", "").strip() not in ("", "0")
    if environment.get("DOMINO_COMPILE_OPTIONS", "").strip() and not on:
        lines.append("DOMINO_COMPILE_OPTIONS has no effect without DOMINO_COMPILE_ENABLE=1")
    return lines
