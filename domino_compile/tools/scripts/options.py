"""Parses options of the backend from a command line."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from domino_compile.errors import OptionError
from domino_compile.options import Options


def parsed_options(texts: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of the backend from ``name=value``; values are Python literals or strings.

    Args:
        texts: The texts ``name=value``.
        known: Options that were given in another way.

    Raises:
        OptionError: A text is not ``name=value``, or an option is unknown or has a bad value.
    """
    options = dict(known)
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise OptionError(f"--option {text!r}: write name=value, such as slices=4")
        try:
            options[name.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name.strip()] = value
    Options.parse(options)
    return options
