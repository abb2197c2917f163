"""The options of the backend, each declared once with default, meaning and check."""

from domino_compile.options.options import ENVIRONMENT, Options, Transport, markdown
from domino_compile.options.pass_names import PASS_NAMES, PassName

__all__ = ["ENVIRONMENT", "PASS_NAMES", "Options", "PassName", "Transport", "markdown"]
