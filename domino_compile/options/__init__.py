"""The options of the backend, each declared once: default, meaning, check."""

from domino_compile.options.options import ENVIRONMENT, PASS_NAMES, Options, markdown

__all__ = ["ENVIRONMENT", "PASS_NAMES", "Options", "markdown"]
