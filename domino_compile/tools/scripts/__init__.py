"""Runs a user's unmodified script, redirects its compiles and observes its steps."""

from domino_compile.tools.scripts.compiles import Asked, Compiles, compiles_redirected
from domino_compile.tools.scripts.run import ScriptError, enough, run_script
from domino_compile.tools.scripts.said import require_something

__all__ = [
    "Asked",
    "Compiles",
    "ScriptError",
    "compiles_redirected",
    "enough",
    "require_something",
    "run_script",
]
