"""The options of the backend, each declared once with default, meaning and check."""

from domino_compile.options.options import ENVIRONMENT, Options, markdown
from domino_compile.pipeline.order import PASS_NAMES

__all__ = ["ENVIRONMENT", "PASS_NAMES", "Options", "markdown"]
